"""Settings that a user may have meant: other programs and papers call them by other names."""

from __future__ import annotations

from collections.abc import Iterable

from distributed.runtime.suggestions import close_names, squashed, synonyms

# Words of the literature with the settings that they may mean, the likeliest first.
SYNONYMS = synonyms(
    {
        "learning_rate base_lr max_lr eta lr_rate step_size": ("optim.lr",),
        "batch bs batchsize minibatch train_batch_size": ("data.batch_size",),
        "eval_batch_size val_batch_size test_batch_size": ("inference.batch_size",),
        "epoch num_epochs n_epochs max_epochs": ("optim.epochs", "stage.epochs"),
        "dropout dropout_rate drop_rate p_drop": ("fusion.modality_dropout", "data.cell_dropout"),
        "wd l2 decay regularization regularisation": ("optim.weight_decay",),
        "optimizer optimiser opt": ("optim.name",),
        "scheduler lr_scheduler warmup_steps warmup_epochs warmup_ratio": ("optim.warmup",),
        "grad_clip gradient_clip gradient_clip_val clip_norm max_grad_norm": ("optim.clip",),
        "grad_accum gradient_accumulation_steps accumulate_grad_batches": ("optim.accumulate",),
        "ema_decay averaging": ("optim.ema",),
        "rho": ("optim.sam_rho",),
        "early_stopping early_stop early_stopping_patience": ("optim.patience",),
        "amp fp16 bf16 mixed_precision dtype half": ("optim.precision",),
        "torch_compile": ("optim.compile",),
        "monitor eval_metric metric_for_best_model": ("optim.metric",),
        "random_seed random_state manual_seed rng": ("optim.seed",),
        "loss criterion loss_fn loss_function objective": ("loss.name",),
        "gamma focal": ("loss.focal_gamma", "loss.vs_gamma"),
        "beta cb_beta": ("loss.effective_beta",),
        "label_smoothing smoothing": ("loss.smoothing_head", "loss.smoothing_tail"),
        "ldam max_m m": ("loss.margin",),
        "s": ("loss.scale",),
        "mixup mixup_alpha alpha cutmix": ("loss.mix", "loss.mix_alpha"),
        "logit_adjustment prior_strength": ("loss.average_prior_strength",),
        "tau": ("fusion.temperature", "stage.tau", "loss.average_prior_strength"),
        "softmax_temperature fusion_temperature": ("fusion.temperature",),
        "fusion fusion_type fusion_method": ("fusion.kind",),
        "kappa": ("fusion.shrinkage", "loss.remix_kappa"),
        "num_folds n_folds kfold": ("fusion.folds",),
        "experts num_experts n_experts expert": ("experts.count",),
        "head": ("experts.classifier",),
        "backbone arch architecture model model_name encoder_name": ("image.encoder",),
        "pretrained": ("image.encoder", "image.weights"),
        "freeze frozen finetune fine_tune": ("image.trainable",),
        "channels": ("image.width",),
        "num_layers n_layers layers depth n_blocks": ("image.blocks", "table.blocks"),
        "hidden_size hidden_dim embed_dim embedding_dim d_model latent_dim": ("dim",),
        "workers num_workers n_workers processes world_size n_jobs": ("scaling.workers",),
        "gpus gpu num_gpus n_gpus device devices cuda": ("scaling.gpus_per_worker",),
        "cpus num_cpus cpu": ("scaling.cpus_per_worker",),
        "num_threads": ("scaling.threads",),
        "retries max_retries restarts": ("scaling.max_failures",),
        "elastic": ("scaling.min_workers",),
        "sync_bn syncbn": ("scaling.sync_batch_norm",),
        "imbalance imbalance_factor imb_factor imb_ratio": ("data.imbalance_ratio",),
        "num_samples max_samples n_rows limit subset": ("data.max_rows",),
        "sampling oversampling resampling weighted_sampler": ("data.sampler",),
        "modality features": ("data.modalities",),
        "augment augmentation aug": ("data.flip", "data.shift", "data.zoom"),
        "hflip horizontal_flip": ("data.flip",),
        "rotation": ("data.rotate",),
        "color jitter color_jitter brightness": ("data.colour",),
        "cutout random_erasing": ("data.erase",),
        "calibration temperature_scaling": ("inference.calibrate",),
        "thresholds offsets": ("inference.decision_offsets",),
        "second_stage crt lws": ("stage.kind",),
    }
)


def settings_by_meaning(name: str, settings: Iterable[str]) -> list[str]:
    """Returns the settings that a name may mean, by its last part; the section may be wrong.

    A setting that is called so comes first, then those that other programs call so.
    """
    *section, last = name.split(".")
    word = squashed(last)
    known = list(settings)
    if whole := [other for other in known if squashed(other) == squashed(name)]:
        return whole  # loss_name is loss.name
    meant = [other for other in known if squashed(other.rpartition(".")[2]) == word]
    meant += [other for other in SYNONYMS.get(word, ()) if other not in meant]
    # A setting of the section that the user has named is the likeliest.
    return sorted(meant, key=lambda other: other.split(".")[:-1] != section)


def settings_like(name: str, settings: Iterable[str]) -> list[str]:
    """Returns the settings that a wrong name may mean: by meaning, else by letters.

    Letters are compared within the section that the name is in, where there is such a section.
    """
    known = list(settings)
    section, _, last = name.rpartition(".")
    same_section = [other for other in known if other.rpartition(".")[0] == section]
    by_last_part = {other.rpartition(".")[2]: other for other in same_section or known}
    return settings_by_meaning(name, known) or [
        by_last_part[close] for close in close_names(last, by_last_part)
    ]

"""The end of a run: second stage, calibration on validation, and the metrics of the splits.

Legend: N rows, E experts, C classes, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distributed.config import Config
from distributed.shards.batches import BatchSource, in_storage_order
from distributed.training.encoded_rows import encode_once
from distributed.training.fusion_limits import DegradedRows, learn_doubts, learn_novelty_gate
from distributed.training.operating_points import operating_metrics
from distributed.training.optimisation.precision import compute_dtype
from distributed.training.optimisation.training_state import TrainingState
from distributed.training.priors import expert_class_priors
from distributed.training.results import RunMetrics, RunResult
from distributed.training.scoring import (
    Batches,
    Evaluator,
    Scores,
    compute_run_metrics,
    confidence_metrics,
    correct_confidences,
)
from distributed.training.screening import screening_note
from model.by_rows import by_rows
from model.classifier import Classifier
from model.decisions import calibration
from model.decisions.calibration import Calibration
from model.decisions.guard import ValidationRows
from model.learning import posthoc
from model.network import Network

NOVELTY_ROWS = 20_000  # training rows that the novelty gate learns from


def finish_run(
    run: TrainingState,
    train: BatchSource,
    val: BatchSource,
    open_test: Callable[[], BatchSource] | None,
    history: list[dict[str, float]],
) -> RunResult:
    """Completes the network of the best epoch and returns the result of the run.

    Loads the best epoch's weights, corrects the confidences, fits the novelty limits and doubts,
    trains the second stage, calibrates on validation and computes the metrics.

    open_test: opens the test split, which is read here and nowhere else; None leaves it out.
    """
    config, network = run.config, run.network
    network.load_state_dict(run.best_epoch["weights"])
    evaluator = Evaluator(run.device, compute_dtype(config, run.device), run.exchange)
    encoded = encode_once(evaluator, network, val)  # what is fitted below leaves the encoders alone
    complete_network(network, evaluator, train, encoded, config)
    scores = evaluator.score(network, encoded)
    fitted = calibrate(scores, network, config)
    by_split = {"val": scores}
    if open_test is not None:
        by_split["test"] = evaluator.score(network, open_test())
    of_splits = {
        split: calibrated_metrics(of_split, network, config, fitted)
        for split, of_split in by_split.items()
    }
    metrics = RunMetrics(
        val=of_splits["val"],
        test=of_splits.get("test"),
        train_seconds=run.seconds,
        cpu_seconds=run.cpu_seconds,
        rows_per_second=run.rows_per_second,
        data_share=run.data_seconds / max(run.seconds, 1e-9),
        epochs=run.epoch,
        best_epoch=run.best_epoch["epoch"],
        calibration=fitted.reason,
        screening=screening_note(network),
    )
    return RunResult(
        network=network,
        calibration=fitted,
        metrics=metrics,
        history=history,
        scores=by_split,
        validation=ValidationRows.select(scores.logits_NEC, scores.labels_N),
    )


def complete_network(
    network: Network, evaluator: Evaluator, train: BatchSource, val: Batches, config: Config
) -> None:
    """Fits what the epochs did not learn, on training and validation rows.

    That is the correction of the confidences, the novelty limits, the doubts and the second stage.
    The encoders stay as they are.
    """
    batch_size = config.inference.batch_size
    if config.fusion.correct_on_validation:
        correct_confidences(network, evaluator.score(network, val))
    if network.novelty_gate is not None:
        rows = in_storage_order(train, batch_size, NOVELTY_ROWS)
        counts_C = torch.from_numpy(rows.plan.selection.counts_C).float()
        familiar: list[Batches] = [val]
        if config.data.degrade and network.pretrained_images:
            familiar.append(DegradedRows(rows, network, config))
        learn_novelty_gate(evaluator, network, rows, counts_C, familiar)
    if config.fusion.doubt and network.mixture is not None:
        learn_doubts(evaluator, network, network.mixture, val)
    if config.stage.kind != "none":
        features = frozen_features(network, in_storage_order(train, batch_size), evaluator)
        train_second_stage(network, features, config)


def calibrate(scores: Scores, network: Classifier, config: Config) -> Calibration:
    """Temperatures and decision offsets, fitted on validation rows.

    They allow for the class prior that each expert's logits stand for.
    """
    if not config.inference.calibrate:
        experts, classes = scores.logits_NEC.shape[1], len(network.schema.classes)
        return Calibration.identity(experts, classes, "calibration is off")
    return calibration.fit_calibration(
        scores.logits_NEC,
        scores.labels_N,
        expert_class_priors(network, config),
        config.inference.decision_offsets,
    )


def calibrated_metrics(
    scores: Scores, network: Classifier, config: Config, fitted: Calibration
) -> dict[str, float]:
    """Metrics of the experts' mean after calibration, with the fitted decision offsets.

    They are those at the prior of the training loss, and some at the priors that have a name.
    """
    probabilities_NC = by_rows(lambda rows: fitted.mix(rows).softmax(-1), scores.logits_NEC)
    decisions_N = fitted.decide(probabilities_NC)
    metrics = compute_run_metrics(scores, network, probabilities_NC, decisions_N)
    metrics |= operating_metrics(scores.logits_NEC, scores.labels_N, network, config, fitted)
    return metrics | confidence_metrics(scores, network)


def frozen_features(
    network: Network, train: BatchSource, evaluator: Evaluator
) -> tuple[Tensor, Tensor]:
    """Features [N, E, H] and labels [N] of every row, without augmentation.

    The rows have the same order whatever the number of workers.
    """
    exchange, device = evaluator.exchange, evaluator.device
    hidden = []
    labels = []
    positions = []
    first = 0
    with torch.inference_mode():
        for batch, outputs in evaluator.forward(network, train):
            hidden.append(outputs.hidden_BEH.float())
            labels.append(batch.labels_B)
            positions.append(first + batch.start + torch.arange(len(batch), device=device))
            first += batch.total or len(batch)
    order_N = exchange.gather(torch.cat(positions)).argsort()
    features_NEH = exchange.gather(torch.cat(hidden))[order_N]
    labels_N = exchange.gather(torch.cat(labels))[order_N]
    return features_NEH, labels_N


def train_second_stage(network: Network, features: tuple[Tensor, Tensor], config: Config) -> None:
    """Replaces the experts' classifiers by those of stage.kind, learned on frozen features."""
    classifier = network.experts.classifier
    hidden_NEH, labels_N = features
    weight_ECH, bias_EC = posthoc.retrain(
        classifier.weight_EHC.detach().transpose(1, 2),
        classifier.bias_EC.detach(),
        posthoc.TrainingFeatures(
            hidden_NEH=hidden_NEH, labels_N=labels_N, counts_C=network.counts_C
        ),
        posthoc.SecondStage(
            kind=config.stage.kind,
            epochs=config.stage.epochs,
            lr=config.optim.lr,
            seed=config.optim.seed,
            tau=config.stage.tau,
        ),
    )
    with torch.no_grad():
        classifier.weight_EHC.copy_(weight_ECH.transpose(1, 2))
        classifier.bias_EC.copy_(bias_EC)

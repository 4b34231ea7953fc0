"""The whole configuration on one screen, and its three sources: defaults, then a TOML file, then --set on the command line."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import (
    ExpertsConfig,
    FusionConfig,
    ImageConfig,
    LossConfig,
    ModelConfig,
    TableConfig,
    check,
    option,
)
from model.metrics.names import check_name

CACHE_MODES = ("auto", "memory", "stream")
STREAM_ENGINES = ("auto", "threads", "ray")
SAMPLERS = ("instance", "balanced", "sqrt", "progressive")
OPTIMISERS = ("adamw", "sgd", "sam", "imbsam")
SECOND_STAGES = ("none", "crt", "lws", "tau")
AGGREGATIONS = ("uniform", "stability", "prior")
MIN_ROWS_PER_OWN_NORM = 16  # of a worker that goes by its own batch statistics, at least
OFFSET_METRICS = ("none", "balanced_accuracy", "macro_f1", "worst_recall")
# Settings that had another name in an earlier version: an old name is refused with the new one.
RENAMED = {
    "fusion.checked": "fusion.correct_on_validation",
    "fusion.familiar": "fusion.reject_unfamiliar",
    "fusion.half": "fusion.half_weight_at",
    "inference.offsets": "inference.decision_offsets",
    "loss.centre": "loss.average_prior_strength",
    "loss.mix_kappa": "loss.remix_kappa",
    "loss.mix_tau": "loss.remix_tau",
    "loss.spread": "loss.spread_of_prior_strength",
    "optim.pick_after": "optim.best_epoch_after",
    "scaling.global_norms": "scaling.sync_batch_norm",
    "table.embedding": "table.embedding_size",
    "table.numbers": "table.numeric_embedding",
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    cache: str = option(
        "auto",
        "memory: decode once and share; stream: decode every epoch; auto: by size",
        choices=CACHE_MODES,
    )
    memory_share: float = option(
        0.3,
        "auto: largest share of the object store that the decoded training set may take",
        low=0.0,
        high=1.0,
    )
    engine: str = option(
        "auto",
        "stream: threads of the worker decode, or Ray Data tasks, on CPUs that no worker claims; auto: ray from 1 GiB on if CPUs lie idle",
        choices=STREAM_ENGINES,
    )
    sampler: str = option("instance", "how training rows are drawn", choices=SAMPLERS)
    batch_size: int = option(64, "rows of one global batch, all workers together", low=1)
    imbalance_ratio: float = option(
        0.0, "cut the training set to an exponential long tail of this ratio; 0 is off", low=0.0
    )
    modalities: str = option("", "comma-separated modalities to use; empty is all")
    max_rows: int = option(0, "use at most this many training rows; 0 is all", low=0)
    shuffle_buffer: int = option(4096, "stream: rows of the local shuffle buffer", low=1)
    flip: str = option(
        "horizontal",
        "training images are flipped at random",
        choices=("none", "horizontal", "vertical", "both"),
    )
    shift: float = option(
        0.08, "training images are shifted by up to this share of their size", low=0.0, high=0.5
    )
    zoom: float = option(0.1, "training images are scaled by up to this share", low=0.0, high=0.9)
    rotate: float = option(
        10.0, "training images are rotated by up to this many degrees", low=0.0, high=180.0
    )
    colour: float = option(
        0.1,
        "brightness and contrast of training images change by up to this share",
        low=0.0,
        high=0.9,
    )
    erase: float = option(
        0.0, "share of a training image's side that a random square covers", low=0.0, high=0.9
    )
    cell_dropout: float = option(
        0.05, "probability that a table cell of a training row is set to missing", low=0.0, high=0.9
    )
    corrupt: str = option(
        "",
        "sabotage for studies: MODALITY=noise|shuffle|missing[:FRACTION], comma-separated, applied to every split",
    )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    name: str = option("adamw", "optimiser", choices=OPTIMISERS)
    epochs: int = option(20, "passes over the training set", low=1)
    lr: float = option(2e-3, "peak learning rate", low=0.0)
    weight_decay: float = option(0.05, "decoupled weight decay (sgd: L2)", low=0.0)
    momentum: float = option(0.9, "momentum of sgd", low=0.0, high=0.999)
    warmup: float = option(
        0.1, "share of the steps with a rising learning rate, before the cosine", low=0.0, high=0.9
    )
    clip: float = option(5.0, "largest norm of the gradient; 0 is off", low=0.0)
    accumulate: int = option(1, "batches whose gradients are added before one step", low=1)
    ema: float = option(
        0.99,
        "decay of the averaged weights that are evaluated and saved; 0 is off",
        low=0.0,
        high=0.99999,
    )
    sam_rho: float = option(0.05, "radius of SAM and ImbSAM", low=0.0)
    precision: str = option(
        "auto",
        "auto: bfloat16 where the device has it, else float32",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: bool = option(False, "torch.compile the network")
    patience: int = option(
        0, "stop after this many epochs without a better validation score; 0 is never", low=0
    )
    best_epoch_after: float = option(
        0.33,
        "share of the epochs that must be over before one counts as the best; 0, or with optim.patience: all count",
        low=0.0,
        high=0.99,
    )
    metric: str = option(
        "balanced_accuracy",
        "validation metric that picks the best epoch (also recall/CLASS, precision/CLASS)",
    )
    seed: int = option(0, "seed of weights, order and augmentation", low=0)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    kind: str = option(
        "none",
        "second stage on frozen features: crt, lws (learned scales), tau (tau-normalised weights)",
        choices=SECOND_STAGES,
    )
    epochs: int = option(5, "epochs of crt and lws, class-balanced", low=1)
    tau: float = option(0.7, "exponent of tau-normalisation", low=0.0, high=2.0)


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    aggregation: str = option("uniform", "how experts are weighted at test", choices=AGGREGATIONS)
    calibrate: bool = option(True, "fit temperatures on validation")
    decision_offsets: str = option(
        "none",
        "fit one decision offset a class on validation for this metric",
        choices=OFFSET_METRICS,
    )
    batch_size: int = option(512, "rows of an evaluation batch", low=1)


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    workers: int = option(1, "training processes", low=1)
    min_workers: int = option(
        0, "elastic training may shrink to this many workers; 0 is a fixed number", low=0
    )
    gpus_per_worker: float = option(0.0, "GPUs a worker, fractions allowed; 0 is CPU", low=0.0)
    cpus_per_worker: float = option(1.0, "CPUs a worker", low=0.0)
    threads: int = option(1, "torch threads a worker; 0 leaves torch's default", low=0)
    sync_batch_norm: bool = option(
        True,
        "batch statistics of all workers' rows, so that N workers train as one; false: of each one's own, two exchanges less a layer",
    )
    max_failures: int = option(
        3, "restarts of the worker group before the run fails; -1 is no limit", low=-1
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run. The model's sections are those of model/config.py; `dim` is model.dim."""

    data: DataConfig = DataConfig()
    image: ImageConfig = ImageConfig()
    table: TableConfig = TableConfig()
    fusion: FusionConfig = FusionConfig()
    experts: ExpertsConfig = ExpertsConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    stage: StageConfig = StageConfig()
    inference: InferenceConfig = InferenceConfig()
    scaling: ScalingConfig = ScalingConfig()
    dim: int = option(128, "embedding size D of every modality", low=4, high=4096)

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(
            dim=self.dim,
            image=self.image,
            table=self.table,
            fusion=self.fusion,
            experts=self.experts,
            loss=self.loss,
        )


def setting_fields(config: Any = None, prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """Every setting by its dotted name."""
    found: dict[str, dataclasses.Field[Any]] = {}
    for entry in dataclasses.fields(Config if config is None else config):
        name = f"{prefix}{entry.name}"
        if dataclasses.is_dataclass(entry.default):
            found.update(setting_fields(type(entry.default), f"{name}."))
        else:
            found[name] = entry
    return found


def flatten(config: Config) -> dict[str, Any]:
    """{dotted name: value} of a configuration."""
    flat = {}
    for name in setting_fields():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        flat[name] = value
    return flat


def apply_changes(config: Config, changes: Mapping[str, Any]) -> Config:
    """The configuration with dotted changes applied and checked; unknown keys and wrong types are named."""
    known = setting_fields()
    for name, value in changes.items():
        check_exists(name)
        config = _set(config, name.split("."), _typed(name, value, type(known[name].default)))
    check(config)
    check_name("optim.metric", config.optim.metric)
    if 0 < config.data.imbalance_ratio < 1:
        raise ValueError(
            f"data.imbalance_ratio must be 0 (off) or at least 1; got {config.data.imbalance_ratio:g}"
        )
    if config.data.batch_size < config.scaling.workers:
        raise ValueError(
            f"data.batch_size must be at least scaling.workers={config.scaling.workers}; got {config.data.batch_size}"
        )
    if config.scaling.min_workers > config.scaling.workers:
        raise ValueError(
            f"scaling.min_workers must be at most scaling.workers={config.scaling.workers}; got {config.scaling.min_workers}"
        )
    least = MIN_ROWS_PER_OWN_NORM * config.scaling.workers
    if (
        not config.scaling.sync_batch_norm
        and config.scaling.workers > 1
        and config.data.batch_size < least
    ):
        raise ValueError(
            f"scaling.sync_batch_norm=false needs {MIN_ROWS_PER_OWN_NORM} rows a worker: data.batch_size of at least {least}; got {config.data.batch_size}"
        )
    return config


def check_exists(name: str) -> None:
    """Raises ValueError for a setting that does not exist, with its new name or with close names."""
    if name in RENAMED:
        raise ValueError(f"{name} is now {RENAMED[name]}")
    known = setting_fields()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        section = [k for k in known if k.split(".")[0] == name.split(".")[0]]
        raise ValueError(
            f"a setting must exist; got {name!r}; valid: {', '.join(near or section or known)}"
        )


def _set(config: Any, path: list[str], value: Any) -> Any:
    head, *rest = path
    return dataclasses.replace(
        config, **{head: _set(getattr(config, head), rest, value) if rest else value}
    )


def _typed(name: str, value: Any, kind: type) -> Any:
    """`value` as `kind`; a string is read as the command line writes it. An int is a valid float, nothing else is bent."""
    if isinstance(value, str) and kind is not str:
        try:
            value = json.loads(value.lower())
        except json.JSONDecodeError:
            raise ValueError(f"{name} must be {_named(kind)}; got {value!r}") from None
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not kind or value != value:
        raise ValueError(f"{name} must be {_named(kind)}; got {value!r}")
    return value


def _named(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]


def parse_assignments(pairs: Iterable[str]) -> dict[str, str]:
    """--set K=V ... as a dict."""
    changes = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(f"--set takes KEY=VALUE; got {pair!r}")
        changes[name.strip()] = value.strip()
    return changes


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Dotted settings of a TOML file, by path or URI; sections and dotted keys mean the same."""
    try:
        if "://" in str(path):
            # By name and on demand: --help needs no pyarrow, and neither does the strict type check of this file.
            content: bytes = importlib.import_module("distributed.runtime.storage").read_file(
                str(path)
            )
        else:
            content = Path(path).read_bytes()
        tree = tomllib.loads(content.decode())
    except FileNotFoundError:
        raise ValueError(f"--config must name a TOML file that exists; got {str(path)!r}") from None
    except OSError as error:
        raise ValueError(
            f"--config must name a TOML file that can be read; got {str(path)!r}: {error}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config must be valid TOML; {path}: {error}") from None
    return _dotted(tree)


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(
            _dotted(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def load_config(
    file: str | Path | None = None, sets: Iterable[str] = (), base: Config | None = None
) -> Config:
    """Defaults, then the file, then --set."""
    config = base or Config()
    if file:
        config = apply_changes(config, read_config_file(file))
    return apply_changes(config, parse_assignments(sets))


def to_toml(changes: Mapping[str, Any]) -> str:
    """Dotted settings as a TOML file, one section a group."""
    sections: dict[str, list[str]] = {}
    for name, value in sorted(changes.items()):
        section, _, key = name.rpartition(".")
        sections.setdefault(section, []).append(f"{key} = {json.dumps(value)}")
    parts = [
        "\n".join(([f"[{section}]"] if section else []) + lines)
        for section, lines in sorted(sections.items())
    ]
    return "\n\n".join(parts) + "\n"


def changes_from_defaults(config: Config) -> dict[str, Any]:
    """Only the settings that differ from the defaults."""
    default = flatten(Config())
    return {name: value for name, value in flatten(config).items() if value != default[name]}


def split_list(listed: str) -> tuple[str, ...]:
    """The parts of a comma-separated setting."""
    return tuple(word for word in (part.strip() for part in listed.split(",")) if word)


def describe_settings() -> str:
    """Every setting, its default and its meaning: the end of `--help`."""
    lines = ["settings for --set NAME=VALUE (name, default, meaning):"]
    for name, entry in setting_fields().items():
        choices = entry.metadata.get("choices")
        default = json.dumps(entry.default)
        lines.append(
            f"  {name:28} {default:12} {entry.metadata['help']}"
            + (f" [{', '.join(choices)}]" if choices else "")
        )
    return "\n".join(lines)

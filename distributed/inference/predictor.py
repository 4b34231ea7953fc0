"""A model at work on tasks of rows: arrays to probabilities to part files, in this process or in a pool of Ray Data actors.

Legend: B rows, M modalities, E experts, C classes."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distributed.inference import weighing
from distributed.inference.inputs import InputRows, PreparedBatch
from distributed.inference.tasks import RowRange, Wave
from distributed.inference.weighing import FixedAggregation
from distributed.runtime.storage import filesystem, join
from distributed.shards import parallel
from distributed.shards.batches import arrays_to_batch
from distributed.shards.decode import Arrays, empty_arrays
from distributed.training import loop, priors
from distributed.training.checkpoint import Checkpoint, parse_checkpoint
from distributed.training.scoring import modality_posteriors
from model.batch import Batch
from model.fusion.cross_modal import CrossModalStats
from model.fusion.novelty import only_unfamiliar
from model.schema import Schema

PARTS = "predictions"
FLUSH_ROWS = 8192  # rows of one row group of a part file
SAMPLE_ROWS = 8192  # an estimate of a few numbers needs no more rows


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """What is done with every row."""

    rows: InputRows
    weighing: FixedAggregation
    out: str
    abstain: float = 0.0
    gpus: float = 0.0
    trust: bool = False  # also modalities that are unlike training


@dataclass
class PredictionTotals:
    """What became of some rows."""

    rows: int = 0
    predicted: int = 0
    abstained: int = 0
    classes: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # sums of the fusion weights
    unlike: list[int] = field(
        default_factory=list
    )  # rows in which a modality is unlike anything in training
    nowhere: int = 0  # rows in which all are
    agreement: CrossModalStats | None = None  # of the modalities, over the predicted rows
    refused: list[tuple[str, str]] = field(default_factory=list)
    unread: Counter[str] = field(
        default_factory=Counter
    )  # cells of a table's columns that hold what tells nothing
    blank: int = 0  # predicted rows without any modality

    def add(self, other: PredictionTotals) -> None:
        self.rows += other.rows
        self.predicted += other.predicted
        self.abstained += other.abstained
        self.classes = [
            a + b for a, b in itertools.zip_longest(self.classes, other.classes, fillvalue=0)
        ]
        self.weights = [
            a + b for a, b in itertools.zip_longest(self.weights, other.weights, fillvalue=0.0)
        ]
        self.unlike = [
            a + b for a, b in itertools.zip_longest(self.unlike, other.unlike, fillvalue=0)
        ]
        self.nowhere += other.nowhere
        self.agreement = (
            self.agreement + other.agreement
            if self.agreement and other.agreement
            else self.agreement or other.agreement
        )
        self.refused += [(row[0], row[1]) for row in other.refused]
        self.unread += other.unread
        self.blank += other.blank

    def to_plain(self) -> dict[str, Any]:
        """As JSON can have it."""
        sums = (
            {name: tensor.tolist() for name, tensor in self.agreement.state_dict().items()}
            if self.agreement
            else None
        )
        return {**vars(self), "agreement": sums}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> PredictionTotals:
        agreement = (
            CrossModalStats.from_state_dict(plain["agreement"]) if plain["agreement"] else None
        )
        return cls(**{**plain, "agreement": agreement, "unread": Counter(plain["unread"])})


class Predictor:
    """The network with all that is applied after it; loaded once in each process that predicts."""

    def __init__(self, checkpoint: Checkpoint, recipe: PredictionSettings, threads: int) -> None:
        self.checkpoint, self.recipe, self.threads = checkpoint, recipe, threads
        self.device = weighing.pick_device(recipe.gpus)
        self.network = checkpoint.network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        if recipe.trust:
            self.network.accept_all_modalities()
        self.trained_C = priors.mean_class_prior(checkpoint)
        self.schema = output_schema(checkpoint, bool(getattr(recipe.rows, "splits", ())))

    @torch.inference_mode()
    def predict(self, prepared: PreparedBatch) -> tuple[pa.Table, PredictionTotals]:
        """The predictions of one batch."""
        classes, modalities = self.network.schema.classes, self.network.schema.modalities
        batch = arrays_to_batch(prepared.arrays, self.network.schema).to(self.device)
        with loop.autocast(self.checkpoint.config, self.device):
            outputs = self.network(batch)
        probabilities_BC = self.recipe.weighing.apply(
            self.checkpoint, outputs.logits_BEC.float().cpu(), self.trained_C
        )
        if not torch.isfinite(probabilities_BC).all():
            raise ValueError(
                "the checkpoint gives probabilities that are no numbers: its training diverged; use an earlier one"
            )
        decided_B = self.checkpoint.calibration.decide(probabilities_BC)
        abstained_B = probabilities_BC.amax(1) < self.recipe.abstain
        entropy_B = torch.special.entr(probabilities_BC).sum(1)
        weights_BM = outputs.weights_BM.float().cpu()
        told = pa.array([*classes, ""], pa.string()).take(
            pa.array(torch.where(abstained_B, len(classes), decided_B).numpy())
        )
        rows = len(decided_B)
        columns: dict[str, Any] = {
            "id": prepared.ids,
            "split": [prepared.split] * rows,
            "label": prepared.labels,
        }
        columns |= {
            "prediction": told,
            "probability": probabilities_BC.gather(1, decided_B[:, None])[:, 0].numpy(),
        }
        columns |= {"abstained": abstained_B.numpy(), "entropy": entropy_B.numpy()}
        columns |= {f"p/{name}": probabilities_BC[:, c].numpy() for c, name in enumerate(classes)}
        columns |= {f"weight/{name}": weights_BM[:, m].numpy() for m, name in enumerate(modalities)}
        columns |= {
            f"expert_weight/{e + 1}": np.full(rows, w, np.float32)
            for e, w in enumerate(self.recipe.weighing.experts)
        }
        unfamiliar_BM = outputs.unfamiliar_BM.cpu()
        columns |= {
            f"unfamiliar/{name}": unfamiliar_BM[:, m].numpy() for m, name in enumerate(modalities)
        }
        counts = torch.bincount(decided_B[~abstained_B], minlength=len(classes)).tolist()
        nowhere = int(only_unfamiliar(outputs.present_BM.cpu(), unfamiliar_BM).sum())
        agreement = self.checkpoint.cross_modal and self.checkpoint.cross_modal.compare(
            *modality_posteriors(outputs)
        )
        blank = int((~outputs.present_BM.any(1)).sum())
        sums = (
            counts,
            weights_BM.sum(0).tolist(),
            unfamiliar_BM.sum(0).tolist(),
            nowhere,
            agreement,
        )
        found = PredictionTotals(
            rows + len(prepared.refused),
            rows,
            int(abstained_B.sum()),
            *sums,
            prepared.refused,
            prepared.unread,
            blank,
        )
        return pa.table([columns[name] for name in self.schema.names], schema=self.schema), found

    def work(self, wave: Wave, task: list[RowRange], part: int) -> PredictionTotals:
        """Predicts a task and writes its part file, whole or not at all."""
        total = PredictionTotals()
        path = join(self.recipe.out, PARTS, f"part-{part:05d}.parquet")
        system, target = filesystem(path)
        system.create_dir(target.rpartition("/")[0], recursive=True)
        with (
            system.open_output_stream(f"{target}.tmp") as sink,
            pq.ParquetWriter(sink, self.schema) as writer,
        ):
            held: list[pa.Table] = []
            for prepared in self.prepared(wave, task):
                if len(prepared.ids):
                    table, found = self.predict(prepared)
                    held.append(table)
                else:
                    found = PredictionTotals(
                        rows=len(prepared.refused), refused=prepared.refused, unread=prepared.unread
                    )
                total.add(found)
                if sum(t.num_rows for t in held) >= FLUSH_ROWS:
                    writer.write_table(pa.concat_tables(held))
                    held = []
            if held:
                writer.write_table(pa.concat_tables(held))
        system.move(f"{target}.tmp", target)
        return total

    def prepared(self, wave: Wave, task: list[RowRange]) -> Iterator[PreparedBatch]:
        """The task's batches, decoded by threads ahead of their use."""
        rows = self.recipe.rows
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
            yield from parallel.prefetch(
                pool, lambda item: rows.prepare(*item), rows.batches(wave, task), self.threads
            )


def output_schema(checkpoint: Checkpoint, splits: bool) -> pa.Schema:
    """Columns of a part file, one a class: probabilities can be filtered, sorted and averaged by name in any tool."""
    schema = checkpoint.network.schema
    columns = [
        ("id", pa.string()),
        *([("split", pa.string())] if splits else []),
        ("label", pa.string()),
        ("prediction", pa.string()),
    ]
    columns += [("probability", pa.float32()), ("abstained", pa.bool_()), ("entropy", pa.float32())]
    columns += [(f"p/{name}", pa.float32()) for name in schema.classes]
    columns += [(f"weight/{name}", pa.float32()) for name in schema.modalities]
    columns += [(f"unfamiliar/{name}", pa.bool_()) for name in schema.modalities]
    return pa.schema(
        [
            *columns,
            *(
                (f"expert_weight/{e + 1}", pa.float32())
                for e in range(weighing.expert_count(checkpoint))
            ),
        ]
    )


class PredictorActor:
    """A worker of the pool: Ray Data hands it numbers of tasks. It loads the model with its first one."""

    def __init__(self, recipe: PredictionSettings) -> None:
        torch.set_num_threads(1)
        self.recipe = recipe
        self.predictor: Predictor | None = None

    def __call__(self, numbers: pa.Table, shared: Any, first: int) -> pa.Table:
        import ray

        model, wave = ray.get(shared)
        if self.predictor is None:
            self.predictor = Predictor(
                parse_checkpoint(model, "the checkpoint"),
                self.recipe,
                threads=4 if self.recipe.gpus else 1,
            )
        try:
            told = [
                self.predictor.work(wave, wave.tasks[k], first + k).to_plain()
                for k in numbers["task"].to_pylist()
            ]
        except ValueError as error:  # the user's mistake: in Ray Data's own wrapping it would arrive as a page of stack
            told = [{"error": str(error)}]
        return pa.table({"outcome": [json.dumps(one) for one in told]})


def predict_in_process(
    checkpoint: Checkpoint, recipe: PredictionSettings, waves: Iterator[Wave]
) -> Iterator[PredictionTotals]:
    """Every task in this process."""
    torch.set_num_threads(1)
    predictor = Predictor(checkpoint, recipe, threads=parallel.decoding_threads())
    part = 0
    for wave in waves:
        for task in wave.tasks:
            yield predictor.work(wave, task, part)
            part += 1


def predict_in_pool(
    content: bytes, recipe: PredictionSettings, waves: Iterator[Wave], actors: int
) -> Iterator[PredictionTotals]:
    """Every task in a pool of actors; each loads the model once from the object store."""
    import ray
    import ray.data

    model, part = ray.put(content), 0
    for wave in waves:
        shared = [
            model,
            ray.put(wave),
        ]  # in a list, so that Ray hands on the references and not the values
        numbers = ray.data.from_arrow([pa.table({"task": [k]}) for k in range(len(wave.tasks))])
        done = numbers.map_batches(
            PredictorActor,
            fn_constructor_args=(recipe,),
            fn_args=(shared, part),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(wave.tasks))),
            num_cpus=1,
            num_gpus=recipe.gpus or None,
        )
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            for told in map(json.loads, batch["outcome"].to_pylist()):
                if "error" in told:
                    raise ValueError(told["error"])
                yield PredictionTotals.from_plain(told)
        part += len(wave.tasks)


@dataclass
class SampledRows:
    """A source of evenly spread rows of the input, for estimates."""

    schema: Schema
    arrays: Arrays
    size: int

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        total = len(self.arrays["labels"])
        for low in range(start * self.size, total, self.size):
            yield arrays_to_batch(
                {name: values[low : low + self.size] for name, values in self.arrays.items()},
                self.schema,
                0,
                0,
            )


def sample_rows(checkpoint: Checkpoint, rows: InputRows, batch_size: int) -> SampledRows:
    """Every k-th row of the input, at most SAMPLE_ROWS; refused ones left out."""
    schema = checkpoint.network.schema
    stride = max(1, -(-sum(wave.rows for wave in rows.waves(1)) // SAMPLE_ROWS))
    parts = [empty_arrays(schema, 0)]
    for wave in rows.waves(1):
        for task in wave.tasks:
            for raw, piece, first in rows.batches(wave, task):
                chosen = list(range(-first % stride, raw.num_rows, stride))
                if chosen:
                    parts.append(rows.prepare(raw.take(chosen), piece, first).arrays)
    return SampledRows(
        schema,
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        batch_size,
    )

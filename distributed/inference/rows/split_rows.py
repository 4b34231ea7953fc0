"""Opens a labelled split of shards for an evaluation: cut, corrupted, in the checkpoint's terms.

Legend: B rows of a batch, N rows after the cut, R rows of the split, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distributed.config import split_list
from distributed.inference.options import EvaluateOptions
from distributed.inference.rows.matching import Lookup, SchemaMatch, match_schemas
from distributed.inference.shifts import shifted_rows
from distributed.raw.instead_of_shards import refuse_table
from distributed.runtime.errors import OptionError
from distributed.shards.batches import BatchSource, MemorySource, StreamSource
from distributed.shards.corruption import apply_corruption, parse_corruption
from distributed.shards.decode import Arrays, decode_columns, empty_arrays
from distributed.shards.epoch_plan import EpochPlan
from distributed.shards.index import read_index
from distributed.shards.manifest import Manifest, read_manifest
from distributed.shards.memory import decide_cache, load_arrays
from distributed.shards.reader import Columns, ShardReader
from distributed.shards.sampling import Selection
from distributed.training.checkpoint import Checkpoint
from model.ensemble import Ensemble
from model.schema import Schema, join_names


@dataclass(frozen=True)
class SplitRows:
    """The rows of an evaluation as batches."""

    source: BatchSource
    notes: Sequence[str]  # how the shards differ from those of the checkpoint
    available: int  # rows of the split before the cut
    rows_N: NDArray[np.int64]  # those of the evaluation, in storage order


def open_evaluated_rows(checkpoint: Checkpoint, options: EvaluateOptions) -> SplitRows:
    """Returns the rows that an evaluation asks for, from memory or streamed, by their size."""
    schema = checkpoint.network.schema
    config = checkpoint.config
    split = options.split
    refuse_table(options.data)
    manifest = read_manifest(options.data)
    match = match_schemas(manifest.schema, schema, manifest.prepare, checkpoint.manifest.prepare)
    corruption = corruption_spec(checkpoint, options)
    if not manifest.rows[split]:
        raise ValueError(
            f"a split must have rows to be evaluated; {options.data} has none in {split}/"
        )
    index = read_index(options.data, split)
    check_labels(match, manifest.schema, index.labels_R, options)
    labels_R = match.labels(index.labels_R).astype(np.int64)
    rows_N = shifted_rows(labels_R, np.asarray(schema.counts), options.shift, options.seed)
    plan = EpochPlan(
        selection=Selection(
            rows_N,
            labels_R[rows_N],
            index.ranks_R[rows_N].astype(np.int64),
            np.bincount(labels_R[rows_N].clip(0), minlength=len(schema.classes)),
        ),
        size=min(config.inference.batch_size, len(rows_N)),
        train=False,
        seed=config.optim.seed,
    )
    seed = config.optim.seed
    source: BatchSource
    if decide_cache(schema, index.rows, config) == "memory":
        arrays = match.apply(load_arrays(options.data, split, match.read))
        arrays = apply_corruption(arrays, corruption, schema, seed=seed, split=split)
        source = MemorySource(schema, plan, arrays)
    else:
        reader = MatchedReader(index, match.read, corruption, seed, match=match)
        source = StreamSource(schema, plan, reader)
    notes = [*match.notes, *_fold_notes(checkpoint, manifest, split)]
    return SplitRows(source, notes, index.rows, rows_N)


def _fold_notes(checkpoint: Checkpoint, manifest: Manifest, split: str) -> list[str]:
    """Says that validation rows were training rows of networks that were trained on folds."""
    network, folds = checkpoint.network, [checkpoint.config.data.folds]
    if isinstance(network, Ensemble):
        folds += [int(str(member.settings.get("data.folds", 1))) for member in network.members]
    is_own_data = manifest.content == checkpoint.manifest.content
    if split == "test" or max(folds) == 1 or not is_own_data:
        return []
    return [
        f"the model was trained on folds of the training and validation rows: its scores on {split}"
        " are flattered by rows that it was trained on; metrics.json has those of held-out rows"
    ]


def corruption_spec(checkpoint: Checkpoint, options: EvaluateOptions) -> str:
    """Returns all corruption of the rows as one specification.

    That is the corruption of the run's own training data, then what the options ask for, then
    the modalities that they take away.
    """
    schema = checkpoint.network.schema
    kept = schema.keep(split_list(options.modalities)).modalities
    parse_corruption(options.corrupt, schema)  # so that an error quotes this part alone
    removed = [f"{name}=missing" for name in schema.modalities if name not in kept]
    parts = [checkpoint.config.data.corrupt, options.corrupt, *removed]
    return ",".join(part for part in parts if part)


def check_labels(
    match: SchemaMatch, shards: Schema, labels_R: Lookup, options: EvaluateOptions
) -> None:
    """Refuses splits without labels, or with rows of classes that the network does not have.

    Such rows would only count as mistakes of the network.
    """
    if not (labels_R >= 0).any():
        raise ValueError(
            f"an evaluation needs labelled rows; {options.data} has none in {options.split}/: "
            "use predict.py for rows without labels"
        )
    rows_C = np.bincount(labels_R[labels_R >= 0], minlength=len(shards.classes))
    unknown = [
        name for c, name in enumerate(shards.classes) if name in match.unknown_classes and rows_C[c]
    ]
    if unknown:
        raise OptionError(
            "data must have rows of the checkpoint's classes only "
            f"({join_names(match.model.classes)}); "
            f"{options.split}/ has rows of {', '.join(unknown)}",
            "data",
        )


@dataclass
class MatchedReader(ShardReader):
    """Reads shards of another ingest and returns arrays in the checkpoint's terms."""

    match: SchemaMatch = field(kw_only=True)

    def arrays_without_columns(self, rows: int) -> Arrays:
        """Returns the network's arrays that have no columns."""
        arrays = empty_arrays(self.match.model, rows)
        return {name: values for name, values in arrays.items() if not values.size}

    def decode(self, columns: Columns) -> Arrays:
        """Returns decoded, matched and corrupted arrays of raw shard columns."""
        arrays = self.match.apply(decode_columns(columns, self.schema))
        return apply_corruption(
            arrays, self.corruption, self.match.model, seed=self.seed, split=self.index.split
        )

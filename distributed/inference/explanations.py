"""What each modality, cell and patch of a record contributes to its prediction.

Legend: B records, M modalities, C classes, G patches a side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from distributed.inference.rows.frames import FrameRows
from distributed.inference.weighing import FixedAggregation
from distributed.shards.batches import arrays_to_batch
from distributed.training.checkpoint import Checkpoint
from distributed.training.pages.record_cards import cell_text
from distributed.training.priors import mean_class_prior
from model.batch import Batch, join_batches
from model.explaining.importance import permutation_importance
from model.explaining.occlusion import Contributions, explain
from model.outputs import Outputs
from model.schema import Schema


@dataclass(frozen=True)
class Explanation:
    """Why a record has its prediction.

    prediction: the class that is explained, of this probability.
    parts: a row a part (modality, column, value, contribution), the strongest first; column is
        empty for a whole modality. A contribution is the probability of the class minus that
        without the part.
    patches: for every image what each patch contributes, as an array [G, G].
    """

    prediction: str
    probability: float
    parts: pd.DataFrame
    patches: dict[str, NDArray[np.float32]]


def posterior_of(
    checkpoint: Checkpoint, aggregation: FixedAggregation
) -> Callable[[Outputs], Tensor]:
    """Returns the function from the network's outputs to the probabilities of a prediction."""
    trained_C = mean_class_prior(checkpoint)

    def posterior(outputs: Outputs) -> Tensor:
        return aggregation.probabilities(checkpoint, outputs.logits_BEC.float().cpu(), trained_C)

    return posterior


def explanation_fields(schema: Schema) -> list[tuple[str, pa.DataType]]:
    """Returns names and types of the columns that `explanation_columns` gives."""
    kinds = [(f"contribution/{name}", pa.float32()) for name in schema.modalities]
    kinds += [
        (f"contribution/{table.name}.{column.name}", pa.float32())
        for table in schema.tables
        for column in table.columns
    ]
    return kinds + [(f"patches/{image.name}", pa.list_(pa.float32())) for image in schema.images]


def explanation_columns(found: Contributions, schema: Schema) -> dict[str, pa.Array]:
    """Returns the contributions of a batch as columns, null where a record has no such part.

    The patches of an image are one list, row by row.
    """
    columns = {}
    for m, name in enumerate(schema.modalities):
        columns[f"contribution/{name}"] = _numbers(found.modalities_BM[:, m])
    for table in schema.tables:
        for j, column in enumerate(table.columns):
            values_B = found.columns[table.name][:, j]
            columns[f"contribution/{table.name}.{column.name}"] = _numbers(values_B)
    for image in schema.images:
        lists = [
            None if patches_L[0].isnan() else patches_L.tolist()
            for patches_L in found.patches[image.name].flatten(1).cpu()
        ]
        columns[f"patches/{image.name}"] = pa.array(lists, pa.list_(pa.float32()))
    return columns


def _numbers(values_B: Tensor) -> pa.Array:
    return pa.array(values_B.float().cpu().numpy(), pa.float32(), from_pandas=True)


def explain_record(
    checkpoint: Checkpoint, source: FrameRows, device: torch.device, class_name: str
) -> Explanation:
    """Explains the first row of a frame.

    class_name: the class to explain, the decided one if empty. ValueError says why a row cannot be
    used.
    """
    schema = checkpoint.network.schema
    if class_name and class_name not in schema.classes:
        raise ValueError(
            f"class_name must be one of {', '.join(schema.classes)}; got {class_name!r}"
        )
    task_group = next(source.task_groups(1))
    prepared = source.prepare(next(iter(source.batches(task_group, task_group.tasks[0]))))
    if prepared.refused is not None:
        raise ValueError(f"the record cannot be used: {prepared.refused['reason'][0]}")
    checkpoint.network.eval().to(device)
    batch = arrays_to_batch(prepared.arrays, schema).to(device)
    posterior = posterior_of(checkpoint, FixedAggregation.uniform(checkpoint))
    with torch.inference_mode():
        decided_B = checkpoint.calibration.decide(posterior(checkpoint.network(batch)))
    if class_name:
        decided_B = torch.full_like(decided_B, schema.classes.index(class_name))
    found = explain(checkpoint.network, batch, posterior, decided_B.to(device))
    return Explanation(
        prediction=schema.classes[int(decided_B[0])],
        probability=float(found.probability_B[0]),
        parts=_parts(found, batch, schema),
        patches={
            name: patches_BGG[0].float().cpu().numpy()
            for name, patches_BGG in found.patches.items()
        },
    )


def importance_of_rows(
    checkpoint: Checkpoint, source: FrameRows, device: torch.device
) -> pd.DataFrame:
    """Returns the permutation importance of modalities and columns over the labelled rows."""
    network = checkpoint.network.eval().to(device)
    batches = []
    for task_group in source.task_groups(1):
        for task in task_group.tasks:
            for raw in source.batches(task_group, task):
                batch = arrays_to_batch(source.prepare(raw).arrays, network.schema)
                batches.append(batch.select(batch.labels_B >= 0))
    rows = join_batches(batches)
    if not len(rows):
        raise ValueError("rows must have labels to measure importance; none has one")
    posterior = posterior_of(checkpoint, FixedAggregation.uniform(checkpoint))
    found = permutation_importance(
        network,
        rows.to(device),
        lambda outputs: checkpoint.calibration.decide(posterior(outputs)),
    )
    return pd.DataFrame([dataclasses.asdict(part) for part in found])


def _parts(found: Contributions, batch: Batch, schema: Schema) -> pd.DataFrame:
    """Returns the modalities and cells of the first record with their contributions."""
    rows = [
        (name, "", "", float(found.modalities_BM[0, m])) for m, name in enumerate(schema.modalities)
    ]
    for table in schema.tables:
        values = [*batch.numbers[table.name][0].tolist(), *batch.categories[table.name][0].tolist()]
        rows += [
            (table.name, column.name, cell_text(column, value), float(share))
            for column, value, share in zip(
                table.columns, values, found.columns[table.name][0], strict=True
            )
        ]
    frame = pd.DataFrame(rows, columns=["modality", "column", "value", "contribution"])
    order = frame["contribution"].abs().sort_values(ascending=False, kind="stable").index
    return frame.loc[order].reset_index(drop=True)

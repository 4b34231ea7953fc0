"""Gradient-boosted trees on the tables of a record, as tensors: a classifier like a network.

scikit-learn grows the trees (distributed/ensembles/boosting.py); here they are arrays of nodes that
answer a whole batch at once, so that a checkpoint holds numbers only and needs no scikit-learn.

Legend: B batch, R records, M modalities, F features of all tables, D features of the widest table,
T trees, N nodes of the largest tree, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from model.batch import Batch
from model.classifier import Classifier
from model.encoders.image import ImageEncoder
from model.outputs import Outputs
from model.schema import Schema, Table

MOST_COLUMNS_OF_A_CATEGORY = 16  # a column with more values is one feature, the number of the value


@dataclass(frozen=True)
class Trees:
    """The nodes of all trees; a leaf leads to itself.

    class_T: the class whose score a tree adds to.
    """

    class_T: Tensor  # int64
    feature_TN: Tensor  # int64
    threshold_TN: Tensor  # float64: a smaller or equal value goes to the left
    missing_left_TN: Tensor  # bool: where a missing value goes
    left_TN: Tensor  # int64
    right_TN: Tensor  # int64
    value_TN: Tensor  # float64: of a leaf
    baseline_C: Tensor  # float64: scores before the first tree
    depth: int  # steps from the root to the deepest leaf

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "depth"}

    def between(self, first: int, last: int) -> Trees:
        """Of every class the trees from the first number on, up to the last one."""
        of_a_step = len(set(self.class_T.tolist()))
        kept = slice(first * of_a_step, last * of_a_step)
        cut = {
            name: tensor if name == "baseline_C" else tensor[kept]
            for name, tensor in self.tensors.items()
        }
        return Trees(**cut, depth=self.depth)


class BoostedTables(Classifier):
    """Gradient-boosted trees on all tables of a record.

    schema: of the tables, without images.
    """

    counts_C: Tensor
    # The fields of Trees.
    class_T: Tensor
    feature_TN: Tensor
    threshold_TN: Tensor
    missing_left_TN: Tensor
    left_TN: Tensor
    right_TN: Tensor
    value_TN: Tensor
    baseline_C: Tensor

    def __init__(self, schema: Schema, trees: Trees) -> None:
        super().__init__()
        if schema.images or not schema.tables:
            raise ValueError(f"boosted trees need tables alone; got {', '.join(schema.modalities)}")
        self.schema, self.depth = schema, trees.depth
        for name, tensor in trees.tensors.items():
            self.register_buffer(name, tensor)
        self.register_buffer("counts_C", torch.tensor(schema.counts, dtype=torch.float32))
        self.widths = [feature_count(table) for table in schema.tables]

    @property
    def dim(self) -> int:
        return max(self.widths)

    @property
    def expert_count(self) -> int:
        return 1

    @property
    def made_of(self) -> str:
        return f"gradient boosting, {len(self.class_T)} trees"

    @property
    def learns_confidence(self) -> bool:
        return False

    @property
    def has_novelty_limits(self) -> bool:
        return False

    def accept_all_modalities(self) -> None:
        """Does nothing: nothing is rejected."""

    def frozen_encoder(self, image: str) -> ImageEncoder | None:
        return None

    def encode(self, batch: Batch) -> Tensor:
        """Returns the features of every table, [B, M, D], NaN where missing."""
        embeddings = []
        for m, table in enumerate(self.schema.tables):
            content = (batch.numbers[table.name], batch.categories[table.name])
            embeddings.append(self.encode_modality(m, content, batch.present_BM[:, m]))
        return torch.stack(embeddings, 1)

    def encode_modality(self, m: int, content: Sequence[Tensor], present_R: Tensor) -> Tensor:
        numbers_RN, categories_RK = content
        features_RF = table_features(self.schema.tables[m], numbers_RN, categories_RK, present_R)
        return torch.nn.functional.pad(features_RF, (0, self.dim - features_RF.shape[1]))

    def choose_modalities(self, embeddings_BMD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        visible_BM = batch.present_BM
        if batch.dropped_BM is not None:
            visible_BM = visible_BM & ~batch.dropped_BM
        return visible_BM, torch.zeros_like(visible_BM)

    def fuse(
        self, embeddings_BMD: Tensor, batch: Batch, visible_BM: Tensor | None = None
    ) -> Outputs:
        if visible_BM is None:
            visible_BM, _ = self.choose_modalities(embeddings_BMD, batch)
        seen_BMD = embeddings_BMD.masked_fill(~visible_BM[:, :, None], torch.nan)
        parts = [seen_BMD[:, m, :width] for m, width in enumerate(self.widths)]
        logits_BC = self.scores(torch.cat(parts, 1)).float()
        weights_BM = visible_BM.float()
        weights_BM = weights_BM / weights_BM.sum(1, keepdim=True).clamp_min(1)
        nothing_BM = torch.zeros_like(weights_BM)
        modalities = len(self.widths)
        return Outputs(
            logits_BEC=logits_BC[:, None],
            hidden_BEH=nothing_BM[:, None, :0],
            fused_BZ=nothing_BM[:, :0],
            weights_BM=weights_BM,
            subsets=None,
            embeddings_BMD=embeddings_BMD,
            auxiliary_BMFC=logits_BC[:, None, None].repeat(1, modalities, 1, 1),
            confidence_BM=nothing_BM,
            shrunk_BM=nothing_BM,
            present_BM=batch.present_BM,
            unfamiliar_BM=torch.zeros_like(visible_BM),
        )

    def relative_distance(self, outputs: Outputs) -> Tensor:
        return torch.full_like(outputs.weights_BM, torch.nan)

    def scores(self, features_BF: Tensor) -> Tensor:
        """Returns the score of every class, a logit, [B, C]."""
        features_BF = features_BF.double()
        rows, trees = features_BF.shape[0], len(self.class_T)
        tree_T = torch.arange(trees, device=features_BF.device)
        node_BT = torch.zeros_like(features_BF[:, :1], dtype=torch.long).expand(rows, trees)
        for _ in range(self.depth):
            value_BT = features_BF.gather(1, self.feature_TN[tree_T, node_BT])
            is_left_BT = torch.where(
                value_BT.isnan(),
                self.missing_left_TN[tree_T, node_BT],
                value_BT <= self.threshold_TN[tree_T, node_BT],
            )
            node_BT = torch.where(
                is_left_BT, self.left_TN[tree_T, node_BT], self.right_TN[tree_T, node_BT]
            )
        scores_BC = self.baseline_C.expand(rows, -1)
        return scores_BC.index_add(1, self.class_T, self.value_TN[tree_T, node_BT])


def restore_boosted(schema: Schema, weights: Mapping[str, Tensor], depth: int) -> BoostedTables:
    """Returns the classifier whose `state_dict` and depth these are."""
    names = [f.name for f in fields(Trees) if f.name != "depth"]
    return BoostedTables(schema, Trees(**{name: weights[name] for name in names}, depth=depth))


def feature_count(table: Table) -> int:
    """Returns how many features a table has."""
    return len(table.numeric) + sum(_columns(len(c.vocabulary)) for c in table.categorical)


def _columns(values: int) -> int:
    """How many features a categorical column with so many values has."""
    return values if values <= MOST_COLUMNS_OF_A_CATEGORY else 1


def batch_features(schema: Schema, batch: Batch) -> Tensor:
    """Returns the features of all tables of a batch, [B, F]; NaN where missing."""
    first = len(schema.images)
    parts = [
        table_features(
            table,
            batch.numbers[table.name],
            batch.categories[table.name],
            batch.present_BM[:, first + m],
        )
        for m, table in enumerate(schema.tables)
    ]
    return torch.cat(parts, 1)


def table_features(
    table: Table, numbers_RN: Tensor, categories_RK: Tensor, present_R: Tensor
) -> Tensor:
    """Returns a table's numbers, and its categories as numbers, [R, F]; NaN where missing.

    A category that training lacks counts as missing.
    """
    parts = [numbers_RN.float()]
    for k, column in enumerate(table.categorical):
        values = len(column.vocabulary)
        ids_R = categories_RK[:, k]
        unknown_R1 = ((ids_R < 0) | (ids_R >= values))[:, None]
        if _columns(values) == 1:
            part_RF = ids_R.float()[:, None]
        else:
            part_RF = (ids_R[:, None] == torch.arange(values, device=ids_R.device)).float()
        parts.append(part_RF.masked_fill(unknown_R1, torch.nan))
    return torch.cat(parts, 1).masked_fill(~present_R[:, None], torch.nan)

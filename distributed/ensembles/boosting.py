"""Grows gradient-boosted trees on the tables of a data set: a candidate of a search's model.

Legend: R rows, F features, C classes, T trees, N nodes of the largest tree.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from distributed.config import Config
from distributed.ensembles.held_out import OpenRows
from distributed.shards.batches import BatchSource
from distributed.shards.manifest import Manifest
from distributed.training.checkpoint import Checkpoint
from distributed.training.finish import calibrate, calibrated_metrics
from distributed.training.scoring import Evaluator
from model.boosted import BoostedTables, Trees, batch_features
from model.decisions.calibration import row_weights
from model.decisions.guard import ValidationRows
from model.decisions.selection import log_losses
from model.schema import Schema

LEAF_COUNTS = (4, 31)  # of a tree, among which validation picks; 31 is scikit-learn's default
MOST_TREES = 200  # of a class
LOWEST = -15.0  # score of a class that training has no row of: its probability is nearly 0
SMALLEST_LEAF = 10  # rows, where the rows are not few


def boost(
    config: Config, manifest: Manifest, open_train: OpenRows, open_val: OpenRows
) -> tuple[Checkpoint, dict[str, float]]:
    """Returns a checkpoint of boosted trees, and its metrics on validation.

    config: its data.modalities are the tables. The size of the trees and their number are those of
    the lowest class-balanced log-loss on validation.
    """
    train, val = open_train(config), open_val(config)
    schema = train.schema
    features_RF, labels_R = _read(train)
    val_VF, val_V = _read(val)
    # scikit-learn cannot bin a feature without a value; it never splits a constant one.
    empty_F = torch.isnan(features_RF).all(0)
    features_RF[:, empty_F] = 0.0
    best: tuple[float, BoostedTables] | None = None
    for leaves in LEAF_COUNTS:
        trees = grow(features_RF.numpy(), labels_R.numpy(), schema, leaves, config.optim.seed)
        loss, count = _best_count(schema, trees, val_VF, val_V)
        if best is None or loss < best[0]:
            best = loss, BoostedTables(schema, trees.between(0, count))
    assert best is not None
    network = best[1].eval()
    scores = Evaluator(torch.device("cpu")).score(network, val)
    fitted = calibrate(scores, network, config)
    checkpoint = Checkpoint(
        network=network,
        config=config,
        manifest=manifest,
        calibration=fitted,
        validation=ValidationRows.select(scores.logits_NEC, scores.labels_N),
    )
    return checkpoint, calibrated_metrics(scores, network, config, fitted)


def grow(
    features_RF: NDArray[np.float32],
    labels_R: NDArray[np.int64],
    schema: Schema,
    leaves: int,
    seed: int,
) -> Trees:
    """Grows MOST_TREES trees for every class; classes count alike."""
    model = HistGradientBoostingClassifier(
        class_weight="balanced",
        max_leaf_nodes=leaves,
        min_samples_leaf=max(2, min(SMALLEST_LEAF, len(labels_R) // (10 * leaves))),
        max_iter=MOST_TREES,
        learning_rate=0.1,
        l2_regularization=1.0,
        # It would set training rows aside, which fails where a class has one row.
        early_stopping=False,
        random_state=seed,
    ).fit(features_RF, labels_R)
    return as_tensors(model, len(schema.classes))


def as_tensors(model: HistGradientBoostingClassifier, classes: int) -> Trees:
    """Returns the trees of a fitted classifier; a class without rows has a very low score."""
    present = [int(c) for c in model.classes_]
    # Of two classes scikit-learn grows the trees of the second one only.
    of_trees = present if len(present) > 2 else present[1:]
    nodes = [predictor.nodes for iteration in model._predictors for predictor in iteration]
    most = max(map(len, nodes))

    def padded(name: str, kind: torch.dtype) -> Tensor:
        values_TN = torch.zeros(len(nodes), most, dtype=kind)
        for t, of_tree in enumerate(nodes):
            values_TN[t, : len(of_tree)] = torch.from_numpy(of_tree[name].astype(np.float64)).to(
                kind
            )
        return values_TN

    leaf_TN = padded("is_leaf", torch.bool)
    own_TN = torch.arange(most).expand(len(nodes), most)
    baseline_C = torch.full((classes,), LOWEST, dtype=torch.float64)
    baseline_C[present] = 0.0
    baseline_C[of_trees] = torch.from_numpy(model._baseline_prediction.reshape(-1)).double()
    return Trees(
        class_T=torch.tensor(of_trees).repeat(len(model._predictors)),
        feature_TN=padded("feature_idx", torch.long),
        threshold_TN=padded("num_threshold", torch.float64),
        missing_left_TN=padded("missing_go_to_left", torch.bool),
        left_TN=torch.where(leaf_TN, own_TN, padded("left", torch.long)),
        right_TN=torch.where(leaf_TN, own_TN, padded("right", torch.long)),
        value_TN=padded("value", torch.float64),
        baseline_C=baseline_C,
        depth=max(int(of_tree["depth"].max()) for of_tree in nodes),
    )


def _best_count(schema: Schema, trees: Trees, val_VF: Tensor, val_V: Tensor) -> tuple[float, int]:
    """Returns the lowest class-balanced log-loss on validation and the number of trees for it."""
    uniform_C = torch.full((len(schema.classes),), 1 / len(schema.classes))
    weights_V = row_weights(val_V, uniform_C)
    scores_VC = trees.baseline_C.expand(len(val_V), -1)
    losses: list[float] = []
    for step in range(MOST_TREES):
        alone = BoostedTables(schema, trees.between(step, step + 1))
        scores_VC = scores_VC + alone.scores(val_VF) - trees.baseline_C
        losses.append(float(log_losses(scores_VC.log_softmax(1), val_V) @ weights_V))
    count = int(np.argmin(losses)) + 1
    return losses[count - 1], count


def _read(source: BatchSource) -> tuple[Tensor, Tensor]:
    """The features and the labels of the labelled rows of a source."""
    parts = [(batch_features(source.schema, batch), batch.labels_B) for batch in source.batches(0)]
    features_RF, labels_R = (torch.cat(column) for column in zip(*parts, strict=True))
    return features_RF[labels_R >= 0], labels_R[labels_R >= 0]

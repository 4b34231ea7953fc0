"""Boosted trees as tensors: scikit-learn's answers, saved and loaded, and members of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from distributed.config import Config, apply_changes
from distributed.ensembles import boosting
from distributed.shards.batches import BatchSource, open_batches
from distributed.shards.manifest import read_manifest
from distributed.training.checkpoint import load_checkpoint, save_checkpoint
from model.boosted import BoostedTables, batch_features, feature_count
from model.ensemble import Ensemble
from model.member import Member
from model.network import Network
from model.schema import Categorical, Numeric, Schema, Table
from tests.model import samples
from tests.training import small_run

DATA = Schema(
    tables=(
        Table(
            name="first",
            numeric=(Numeric(name="age"), Numeric(name="dose")),
            categorical=(Categorical(name="sex", vocabulary=("f", "m")),),
        ),
        Table(
            name="second",
            numeric=(Numeric(name="heat"),),
            categorical=(Categorical(name="site", vocabulary=tuple(map(str, range(30)))),),
        ),
    ),
    classes=("a", "b", "c", "d"),
    counts=(50, 30, 15, 0),
)


def labelled(rows: int, classes: int, seed: int) -> tuple[Any, torch.Tensor]:
    """A batch whose classes follow from its numbers; some tables are absent."""
    batch = samples.batch(DATA, rows, seed)
    score_B = batch.numbers["first"][:, 0].nan_to_num() + batch.numbers["second"][:, 0].nan_to_num()
    labels_B = torch.bucketize(score_B, torch.linspace(-1, 1, classes - 1))
    g = torch.Generator().manual_seed(seed)
    present_BM = torch.rand(rows, 2, generator=g) > 0.1
    return batch.replace(present_BM=present_BM, labels_B=labels_B), labels_B


@pytest.mark.parametrize("classes", [2, 3])
def test_the_tensors_answer_as_scikit_learn_does(classes: int) -> None:
    batch, labels_B = labelled(400, classes, 0)
    features_BF = batch_features(DATA, batch)
    assert features_BF.shape[1] == sum(map(feature_count, DATA.tables)) == 3 + 1 + 2
    model = HistGradientBoostingClassifier(
        max_iter=20, max_leaf_nodes=6, class_weight="balanced", early_stopping=False
    ).fit(features_BF.numpy(), labels_B.numpy())
    network = BoostedTables(DATA, boosting.as_tensors(model, 4)).eval()
    other, _ = labelled(300, classes, 1)
    other.categories["second"][:20] = 30  # a value that training lacks
    other.numbers["first"][20:30] = torch.nan
    expected = model.predict_proba(batch_features(DATA, other).numpy())
    outputs = network(other)
    probabilities_BC = outputs.logits_BEC[:, 0].softmax(1).numpy()
    np.testing.assert_allclose(probabilities_BC[:, :classes], expected, atol=1e-5)
    assert probabilities_BC[:, classes:].max() < 1e-4  # no row of these in training
    torch.testing.assert_close(
        outputs.weights_BM.sum(1), other.present_BM.any(1).float(), check_dtype=False
    )


def test_a_table_that_is_not_used_counts_as_missing() -> None:
    batch, labels_B = labelled(300, 3, 0)
    features_BF = batch_features(DATA, batch)
    trees = boosting.grow(features_BF.numpy(), labels_B.numpy(), DATA, 4, seed=0)
    network = BoostedTables(DATA, trees).eval()
    hidden = batch.replace(dropped_BM=torch.tensor([[False, True]]).expand(300, 2))
    absent = batch.replace(present_BM=batch.present_BM & torch.tensor([[True, False]]))
    torch.testing.assert_close(network(hidden).logits_BEC, network(absent).logits_BEC)
    seen = network.fuse(network.encode(batch), batch, absent.present_BM)
    torch.testing.assert_close(seen.logits_BEC, network(absent).logits_BEC)


def test_tables_are_needed() -> None:
    trees = boosting.grow(np.random.rand(60, 1).astype("f4"), np.arange(60) % 3, DATA, 4, seed=0)
    with pytest.raises(ValueError, match="boosted trees need tables alone; got photo, table"):
        BoostedTables(samples.schema(), trees)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("boosting")
    shards = small_run.write_shards(here / "shards")
    small_run.train(here / "run", shards, **{"optim.epochs": 3})
    return here


def opened(folder: Path, split: str) -> Any:
    def open_rows(config: Config) -> BatchSource:
        return open_batches(str(folder / "shards"), split, config, train=False)

    return open_rows


def test_they_are_picked_on_validation_saved_and_answer_beside_a_network(folder: Path) -> None:
    config = apply_changes(Config(), {"data.modalities": "table", "inference.batch_size": 32})
    manifest = read_manifest(str(folder / "shards"))
    checkpoint, metrics = boosting.boost(
        config, manifest, opened(folder, "train"), opened(folder, "val")
    )
    assert metrics["balanced_accuracy"] > 0.5
    assert 0 < metrics["balanced_nll"] < 1.1
    network = checkpoint.network
    assert isinstance(network, BoostedTables)
    assert len(network.class_T) < 3 * boosting.MOST_TREES
    save_checkpoint(str(folder / "boosted"), checkpoint)
    loaded = load_checkpoint(str(folder / "boosted"))
    assert "gradient boosting" in loaded.network.made_of
    run = load_checkpoint(str(folder / "run"))
    assert isinstance(run.network, Network)
    uniform_C = torch.full((3,), 1 / 3)
    members = [
        Member(c.network, c.calibration, uniform_C, name, {})
        for name, c in (("run", run), ("trees", loaded))
    ]
    both = Ensemble(run.network.schema, members, [0, 1], uniform_C).eval()
    (batch,) = list(opened(folder, "val")(run.config).batches(0))[:1]
    with torch.inference_mode():
        together, of_trees = both(batch), network(next(opened(folder, "val")(config).batches(0)))
    own_BC = loaded.calibration.scale(of_trees.logits_BEC)[:, 0].log_softmax(1)
    trust_B1 = together.weights_BM[:, 1:]
    expected_BC = trust_B1 * own_BC + (1 - trust_B1) * together.logits_BEC[:, 0]
    present_B = batch.present_BM[:, 1]
    torch.testing.assert_close(together.logits_BEC[present_B, 1], expected_BC[present_B])

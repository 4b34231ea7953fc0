"""Facts about permutation importance: what decides is important, what does not is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.batch import Batch
from model.config import ModelConfig
from model.explaining.importance import permutation_importance
from model.network import Network
from model.outputs import Outputs
from tests.model import samples

SCHEMA = samples.schema(counts=(50, 50))


def records(rows: int = 200) -> tuple[Network, Batch]:
    """A network whose second class is that of the men, and records labelled so."""
    torch.manual_seed(0)
    network = Network(SCHEMA, ModelConfig(dim=8)).eval()
    drawn = samples.batch(SCHEMA, rows)
    categories = drawn.categories["table"].clone()
    categories[:, 0] = torch.arange(rows) % 2
    present_BM = torch.ones(rows, 2, dtype=torch.bool)
    batch = drawn.replace(
        categories={"table": categories}, present_BM=present_BM, labels_B=categories[:, 0]
    )
    return network, batch


def decide_by_sex(network: Network, batch: Batch) -> object:
    """Decides by which of the two embeddings of the sex a record's table embedding is nearer to."""
    embeddings_BD = network.encode(batch)[:, 1]
    means = torch.stack([embeddings_BD[batch.labels_B == c].mean(0) for c in range(2)])
    direction_D = means[1] - means[0]
    threshold = float((means.mean(0) * direction_D).sum())

    def decide(outputs: Outputs) -> Tensor:
        return ((outputs.embeddings_BMD[:, 1] @ direction_D) > threshold).long()

    return decide


def test_the_column_that_decides_is_the_most_important() -> None:
    network, batch = records()
    with torch.inference_mode():
        decide = decide_by_sex(network, batch)
    found = permutation_importance(network, batch, decide)  # type: ignore[arg-type]
    by_title = {each.title: each for each in found}
    assert list(by_title) == [
        "photo", "table", "table: age", "table: dose", "table: sex", "table: site",
    ]  # fmt: skip
    columns = [each for each in found if each.column]
    best = max(columns, key=lambda each: each.fall)
    assert best.column == "sex" and best.low > 0.1
    assert by_title["photo"].fall == by_title["photo"].low == by_title["photo"].high == 0
    assert by_title["table"].fall == pytest.approx(best.fall, abs=0.25)
    assert all(each.low <= each.fall <= each.high for each in found)


def test_the_same_seed_gives_the_same_importance() -> None:
    network, batch = records(40)
    with torch.inference_mode():
        decide = decide_by_sex(network, batch)
    first = permutation_importance(network, batch, decide, seed=1)  # type: ignore[arg-type]
    assert first == permutation_importance(network, batch, decide, seed=1)  # type: ignore[arg-type]


def test_records_without_labels_are_refused() -> None:
    network, batch = records(10)
    with pytest.raises(ValueError, match="needs records with labels"):
        permutation_importance(network, batch.replace(labels_B=torch.full((10,), -1)), lambda o: o)


def test_of_wide_tables_the_columns_that_decide_are_measured() -> None:
    network, batch = records()
    with torch.inference_mode():
        decide = decide_by_sex(network, batch)
    everything = permutation_importance(network, batch, decide)  # type: ignore[arg-type]
    for most in (1, 2, 3):
        found = permutation_importance(
            network,
            batch,
            decide,
            most_columns=most,  # type: ignore[arg-type]
        )
        assert sum(bool(each.column) for each in found) == most
        assert all(each in everything for each in found), "what is measured is measured alike"


def test_the_column_that_a_sure_network_goes_by_is_chosen() -> None:
    network, batch = records()
    batch = batch.replace(numbers={"table": torch.randn(len(batch), 2)})
    optimiser = torch.optim.Adam(network.train().parameters(), lr=0.003)
    for _ in range(20):
        logits_BC = network(batch).logits_BEC.mean(1)
        loss = torch.nn.functional.cross_entropy(logits_BC, batch.labels_B)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.001

    def decide(outputs: Outputs) -> Tensor:
        return outputs.logits_BEC.mean(1).argmax(1)

    *_, column = permutation_importance(network, batch, decide, most_columns=1)
    assert column.column == "sex" and column.low > 0.2

"""Facts about giveaways and shortcuts: a planted part is found, a class's own look is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.batch import Batch
from model.config import ModelConfig
from model.explaining.giveaways import (
    bin_edges,
    binned,
    giveaways,
    halves,
    precisions,
)
from model.explaining.shortcuts import (
    GRID,
    Exchange,
    Part,
    audit_shortcuts,
    audited_classes,
    lower_end,
    most_telling,
)
from model.network import Network
from model.outputs import Outputs
from tests.model import samples

COUNTS = (300, 60, 20)
RARE = 2
SCHEMA = samples.schema(counts=COUNTS)


def records() -> Batch:
    """Noise in which nothing tells the classes apart."""
    labels_N = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    drawn = samples.batch(SCHEMA, len(labels_N), seed=1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(60, 120, (len(labels_N), 3, 16, 16), generator=generator)
    present_BM = torch.ones(len(labels_N), 2, dtype=torch.bool)
    present_BM[::9, 0] = False
    return drawn.replace(
        images={"photo": pixels.to(torch.uint8)}, present_BM=present_BM, labels_B=labels_N
    )


def with_marker(batch: Batch) -> Batch:
    """A bright square in the third patch of the second row, on the pictures of the rare class."""
    pixels = batch.images["photo"].clone()
    rare_B = batch.labels_B == RARE
    pixels[rare_B, :, 4:6, 7:9] = 250
    return batch.replace(images={"photo": pixels})


def with_code(batch: Batch) -> Batch:
    """A site that only the rare class has."""
    categories = batch.categories["table"].clone()
    categories[:, 1] %= 5
    categories[batch.labels_B == RARE, 1] = 5
    return batch.replace(categories={"table": categories})


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(SCHEMA, ModelConfig(dim=8)).eval()


def posterior(outputs: Outputs) -> Tensor:
    return outputs.logits_BEC.mean(1).softmax(-1)


def test_a_marker_and_a_code_stand_out(network: Network) -> None:
    marked = most_telling(network, with_marker(records()), RARE, GRID)
    assert marked.part == Part("photo", patch=GRID + 2)
    assert marked.part.title(GRID) == "photo: patch 2 down, 3 across, of 5 x 5"
    assert marked.precision > 0.95 and marked.is_shortcut
    coded = most_telling(network, with_code(records()), RARE, GRID)
    assert coded.part == Part("table", "site") and coded.part.title(GRID) == "column site"
    assert coded.precision == 1 and coded.is_shortcut


def test_nothing_stands_out_in_noise(network: Network) -> None:
    for label in range(3):
        assert not most_telling(network, records(), label, GRID).is_shortcut


def test_a_class_that_looks_different_everywhere_has_no_shortcut(network: Network) -> None:
    batch = records()
    pixels = batch.images["photo"].clone()
    pixels[batch.labels_B == RARE] += 80
    bright = batch.replace(images={"photo": pixels})
    found = giveaways(SCHEMA, bright, RARE, GRID)
    assert min(float(rows.mean()) for (_, _, patch), rows in found.items() if patch >= 0) > 0.95
    assert not most_telling(network, bright, RARE, GRID).is_shortcut


def test_the_audit_takes_the_rarest_classes_with_enough_rows() -> None:
    assert audited_classes((300, 9, 10, 60), most=2) == [2, 3]
    assert audited_classes((5, 9), most=4) == []


def test_exchanging_a_part_changes_nothing_else(network: Network) -> None:
    batch = with_code(with_marker(records()))
    exchange = Exchange(network, batch, posterior, RARE, GRID, seed=0)
    assert bool((exchange.donors.labels_B == RARE).all())
    assert not bool((exchange.recipients.labels_B == RARE).any())
    marked = exchange._exchanged(exchange.recipients, exchange.donors, Part("photo", patch=7))
    changed = marked.images["photo"] != exchange.recipients.images["photo"]
    assert bool(changed[:, :, 3:6, 6:10].any())
    changed[:, :, 3:6, 6:10] = False
    assert not bool(changed.any())
    coded = exchange._exchanged(exchange.recipients, exchange.donors, Part("table", "site"))
    assert bool((coded.categories["table"][:, 1] == 5).all())
    unchanged = exchange.recipients.categories["table"][:, 0]
    assert torch.equal(coded.categories["table"][:, 0], unchanged)


def test_a_network_that_goes_by_the_code_is_seen_to(network: Network) -> None:
    batch = with_code(records())

    def by_code(outputs: Outputs) -> Tensor:
        """Class probabilities by how near the table embedding is to that of the rare class."""
        distance_B = 9 * (outputs.embeddings_BMD[:, 1] - rare_D).square().sum(-1)
        return torch.stack([distance_B, torch.zeros_like(distance_B), -distance_B], 1).softmax(-1)

    with torch.inference_mode():
        rare_D = network.encode(batch)[batch.labels_B == RARE, 1].mean(0)
    (found,) = audit_shortcuts(network, batch, by_code, [RARE])
    assert found.gained is not None and found.gained > 0.02
    (quick,) = audit_shortcuts(network, records(), by_code, [RARE], seconds=0)
    assert quick.gained is None and not quick.is_shortcut  # no time, and no reason to take it


def test_precisions_count_ties_against_the_class() -> None:
    is_class = torch.tensor([True, False, True, False])
    assert precisions(torch.tensor([4.0, 1.0, 3.0, 2.0]), is_class).tolist() == [1, 1]
    assert precisions(torch.zeros(4), is_class).tolist() == pytest.approx([1 / 3, 2 / 4])


def test_a_mean_over_few_rows_is_less_sure() -> None:
    few, many = torch.tensor([0.5, 1.0] * 3), torch.tensor([0.5, 1.0] * 30)
    # Student's t with 5 degrees of freedom is above 2.015 with probability 0.05.
    assert lower_end(few, 0.05) == pytest.approx(0.75 - 2.015 * float(few.std()) / 6**0.5, abs=1e-4)
    assert lower_end(few, 0.01) < lower_end(few, 0.05) < lower_end(many, 0.05) < 0.75
    assert lower_end(torch.ones(10), 0.01) == 1


def test_a_marker_on_few_pixels_is_found_in_a_class_of_ten_rows(network: Network) -> None:
    """Half of them are those that a part is fitted on, and its other pixels are noise."""
    batch = with_marker(records())
    rare_B = batch.labels_B == RARE
    kept = torch.cat([(~rare_B).nonzero()[:, 0], rare_B.nonzero()[:10, 0]])
    found = most_telling(network, batch.select(kept), RARE, GRID, classes=8)
    assert found.part == Part("photo", patch=GRID + 2)
    assert found.precision > 0.95 and found.is_shortcut


def test_what_a_few_lucky_rows_say_is_no_alarm(network: Network) -> None:
    """A site that three of four rows of the class have, and hardly any other row."""
    batch = with_code(records())
    categories = batch.categories["table"].clone()
    rare = (batch.labels_B == RARE).nonzero()[:, 0]
    categories[rare[::4], 1] = 0
    some = batch.replace(categories={"table": categories})
    kept = torch.cat([(batch.labels_B != RARE).nonzero()[:, 0], rare[:12]])
    found = most_telling(network, some.select(kept), RARE, GRID, classes=8)
    assert found.part == Part("table", "site")
    assert found.stands_out > 0.5 > found.surely and not found.is_shortcut


def test_bins_have_equally_many_rows_and_missing_ones_their_own() -> None:
    values = torch.cat([torch.arange(100.0), torch.full((5,), torch.nan)])
    counts = torch.bincount(binned(values, bin_edges(values, values[:0])))
    assert counts[0] == 5 and counts[1:].tolist() == [10] * 10
    assert binned(values[100:], bin_edges(values[100:], values[:0])).tolist() == [0] * 5


def test_a_narrow_range_of_numbers_gives_a_class_away(network: Network) -> None:
    batch = records()
    numbers = batch.numbers["table"].clone()
    rare_B = batch.labels_B == RARE
    numbers[rare_B, 0] = torch.linspace(0.30, 0.31, int(rare_B.sum()))
    found = most_telling(network, batch.replace(numbers={"table": numbers}), RARE, GRID)
    assert found.part == Part("table", "age") and found.is_shortcut


def test_each_half_has_half_of_the_class() -> None:
    is_class = torch.tensor([True, True, True, True, False, False])
    assert halves(is_class)[is_class].sum() == 2 and halves(is_class)[~is_class].sum() == 1


def test_a_class_with_few_rows_is_not_judged() -> None:
    batch = records()
    labels_B = torch.zeros(len(batch), dtype=torch.long)
    labels_B[:3] = RARE
    found = giveaways(SCHEMA, with_code(batch.replace(labels_B=labels_B)), RARE, GRID)
    assert {float(rows.mean()) for rows in found.values()} == {0.0}

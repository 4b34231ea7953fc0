"""Facts about contributions: what is left out, what stands in its place, what stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.batch import Batch
from model.config import FusionConfig, ModelConfig
from model.explaining.occlusion import explain, mean_colour, patch_slices, reference_values
from model.network import Network
from model.outputs import Outputs
from model.schema import Categorical, Numeric
from tests.model import samples

SCHEMA = samples.schema()


def posterior(outputs: Outputs) -> Tensor:
    return outputs.logits_BEC.detach().mean(1).softmax(-1)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(SCHEMA, ModelConfig(dim=8)).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    drawn = samples.batch(SCHEMA)
    present_BM = torch.ones(len(drawn), 2, dtype=torch.bool)
    present_BM[0, 0] = present_BM[1, 1] = False
    return drawn.replace(present_BM=present_BM, complete_M=())


def test_a_modality_is_left_out_as_if_the_record_had_none(network: Network, batch: Batch) -> None:
    found = explain(network, batch, posterior)
    whole_BC = posterior(network(batch))
    assert torch.equal(found.classes_B, whole_BC.argmax(1))
    for m in range(2):
        present_BM = batch.present_BM.clone()
        present_BM[:, m] = False
        without_BC = posterior(network(batch.replace(present_BM=present_BM)))
        expected_B = (whole_BC - without_BC).gather(1, found.classes_B[:, None])[:, 0]
        has_B = batch.present_BM[:, m]
        assert torch.allclose(found.modalities_BM[has_B, m], expected_B[has_B], atol=1e-6)
        assert found.modalities_BM[~has_B, m].isnan().all()


def test_a_cell_is_replaced_by_training_values(network: Network, batch: Batch) -> None:
    table = SCHEMA.tables[0]
    classes_B = torch.zeros(len(batch), dtype=torch.long)
    found = explain(network, batch, posterior, classes_B)
    for j, column in enumerate(table.columns):
        mean_B = torch.zeros(len(batch))
        for value, weight in reference_values(column):
            numbers = batch.numbers["table"].clone()
            categories = batch.categories["table"].clone()
            if j < 2:
                numbers[:, j] = value
            else:
                categories[:, j - 2] = int(value)
            changed = batch.replace(numbers={"table": numbers}, categories={"table": categories})
            mean_B += weight * posterior(network(changed))[:, 0]
        expected_B = found.probability_B - mean_B
        assert torch.allclose(found.columns["table"][2:, j], expected_B[2:], atol=1e-5)
    assert found.columns["table"][1].isnan().all()  # the record has no row


def test_a_patch_is_replaced_by_the_mean_colour(network: Network, batch: Batch) -> None:
    image = SCHEMA.images[0]
    found = explain(network, batch, posterior, grid=3)
    rows, columns = list(patch_slices(image, 3))[5]
    pixels = batch.images["photo"].clone()
    pixels[:, :, rows, columns] = mean_colour(image, pixels)
    without_BC = posterior(network(batch.replace(images={"photo": pixels})))
    expected_B = found.probability_B - without_BC.gather(1, found.classes_B[:, None])[:, 0]
    assert torch.allclose(found.patches["photo"][1:, 1, 2], expected_B[1:], atol=1e-5)
    assert found.patches["photo"][0].isnan().all()  # the record has no picture
    assert not explain(network, batch, posterior, grid=0).patches


def test_what_the_fusion_does_not_use_contributes_nothing(batch: Batch) -> None:
    torch.manual_seed(0)
    network = Network(SCHEMA, ModelConfig(dim=8, fusion=FusionConfig())).eval()
    assert network.novelty_gate is not None
    network.novelty_gate.limit_M[0] = 1e-9  # every picture is unlike training
    found = explain(network, batch, posterior)
    assert found.modalities_BM[2:, 0].isnan().all() and found.patches["photo"][2:].isnan().all()
    assert not found.modalities_BM[2:, 1].isnan().any()


def test_many_records_give_what_each_gives_alone(network: Network, batch: Batch) -> None:
    together = explain(network, batch, posterior)
    alone = explain(network, batch.select(slice(3, 4)), posterior)
    assert torch.allclose(together.modalities_BM[3:4], alone.modalities_BM, atol=1e-5)
    assert torch.allclose(together.patches["photo"][3:4], alone.patches["photo"], atol=1e-5)
    assert torch.allclose(together.columns["table"][3:4], alone.columns["table"], atol=1e-5)


def test_the_network_is_as_before(network: Network, batch: Batch) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explain(network, batch, posterior)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_reference_values_are_those_of_training() -> None:
    edges = tuple(float(x) for x in range(101))
    number = reference_values(Numeric(name="a", quantiles=edges, missing=0.2))
    values = [value for value, _ in number[:-1]]
    assert values == sorted(values) and values[0] < 20 and values[-1] > 80
    assert torch.tensor(number[-1][0]).isnan() and number[-1][1] == 0.2
    assert sum(weight for _, weight in number) == pytest.approx(1)
    category = reference_values(Categorical(name="b", vocabulary=("x", "y")))
    assert category == [(0.0, 0.5), (1.0, 0.5)]
    assert reference_values(Categorical(name="c", vocabulary=())) == [(-1.0, 1.0)]


def test_patches_cover_the_picture_once() -> None:
    image = samples.image(size=17)
    seen = torch.zeros(17, 17)
    for rows, columns in patch_slices(image, 5):
        seen[rows, columns] += 1
    assert bool((seen == 1).all())

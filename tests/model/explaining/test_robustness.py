"""Facts about broken modalities: what is broken, and that the rest stays."""

from __future__ import annotations

import torch

from model.config import ModelConfig
from model.explaining.robustness import balanced_accuracy, robustness, with_noise
from model.network import Network
from model.outputs import Outputs
from tests.model import samples

SCHEMA = samples.schema()


def test_every_modality_is_broken_in_every_way() -> None:
    torch.manual_seed(0)
    network = Network(SCHEMA, ModelConfig(dim=8)).eval()
    batch = samples.batch(SCHEMA, 60)
    batch = batch.replace(present_BM=torch.ones(60, 2, dtype=torch.bool))
    seen: list[Outputs] = []

    def decide(outputs: Outputs) -> torch.Tensor:
        seen.append(outputs)
        return outputs.logits_BEC.mean(1).argmax(1)

    found = robustness(network, batch, decide)
    assert [(c.modality, c.condition) for c in found] == [
        ("", "intact"),
        ("photo", "absent"),
        ("photo", "of another record"),
        ("photo", "noise"),
        ("table", "absent"),
        ("table", "of another record"),
        ("table", "noise"),
    ]
    intact, absent, exchanged, noisy = seen[:4]
    assert bool((absent.weights_BM[:, 0] == 0).all())
    assert torch.equal(
        exchanged.embeddings_BMD[:, 0].sort(0).values, intact.embeddings_BMD[:, 0].sort(0).values
    )
    for changed in (exchanged, noisy):
        assert not torch.equal(changed.embeddings_BMD[:, 0], intact.embeddings_BMD[:, 0])
        assert torch.equal(changed.embeddings_BMD[:, 1], intact.embeddings_BMD[:, 1])
    expected = balanced_accuracy(intact.logits_BEC.mean(1).argmax(1), batch.labels_B)
    assert found[0].balanced_accuracy == expected


def test_noise_in_a_table_has_its_columns_ranges() -> None:
    network = Network(SCHEMA, ModelConfig(dim=8))
    batch = samples.batch(SCHEMA, 400)
    noisy = with_noise(network, batch, 1, torch.Generator().manual_seed(0))
    assert abs(float(noisy.numbers["table"][:, 1].mean()) - 5) < 0.5
    assert noisy.categories["table"].amin(0).tolist() == [0, 0]
    assert noisy.categories["table"].amax(0).tolist() == [1, 5]
    assert torch.equal(noisy.images["photo"], batch.images["photo"])


def test_balanced_accuracy_is_the_mean_recall() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1])
    assert balanced_accuracy(torch.tensor([0, 0, 0, 1, 1]), labels) == (0.75 + 1) / 2

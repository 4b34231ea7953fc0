"""Which encoder `auto` chooses, and that features of a pretrained one are brought to one scale."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from model.config import ImageConfig
from model.encoders.choice import choose_encoder
from model.encoders.efficientnet import EfficientNetLite0, summarise
from model.encoders.image import ImageEncoder
from model.encoders.resnet import ResNet
from tests.model import samples


@pytest.mark.parametrize(
    ("height", "width", "channels", "expected"),
    [
        (32, 32, 3, "efficientnet_lite0"),
        (120, 160, 3, "efficientnet_lite0"),
        (64, 64, 4, "efficientnet_lite0"),
        (31, 200, 3, "resnet"),
        (48, 48, 1, "resnet"),
        (224, 224, 2, "resnet"),
    ],
)
def test_auto_is_decided_by_channels_and_size(
    height: int, width: int, channels: int, expected: str
) -> None:
    image = dataclasses.replace(samples.image(channels=channels), height=height, width=width)
    assert choose_encoder(image, ImageConfig()) == expected
    assert choose_encoder(image, ImageConfig(encoder="resnet")) == "resnet"
    body = ImageEncoder(image, ImageConfig(), 8, pretrained=False).body
    kind = EfficientNetLite0 if expected == "efficientnet_lite0" else ResNet
    assert isinstance(body, kind)


def test_features_are_the_mean_and_the_deviation_of_every_channel() -> None:
    torch.manual_seed(0)
    map_BCHW = torch.randn(3, 5, 4, 6)
    features = summarise(map_BCHW)
    torch.testing.assert_close(features[:, :5], map_BCHW.mean((2, 3)))
    deviation = map_BCHW.flatten(2).std(-1, correction=0)
    torch.testing.assert_close(features[:, 5:], deviation, rtol=1e-3, atol=1e-3)
    blank = torch.zeros(1, 5, 4, 6, requires_grad=True)
    summarise(blank).sum().backward()
    assert blank.grad is not None
    assert blank.grad.isfinite().all()


def test_every_feature_of_a_pretrained_encoder_counts_alike_at_the_start() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(samples.image(size=48), ImageConfig(), 8).train()
    assert encoder.scale is not None
    pixels = torch.randint(0, 256, (8, 3, 48, 48), dtype=torch.uint8)
    scaled = []
    encoder.head.register_forward_pre_hook(lambda _, inputs: scaled.append(inputs[0]))
    encoder(pixels, torch.ones(8, dtype=torch.bool))
    varies = scaled[0].std(0, correction=0) > 0.5
    assert varies.float().mean() > 0.9
    torch.testing.assert_close(
        scaled[0][:, varies].std(0, correction=0),
        torch.ones(int(varies.sum())),
        rtol=0.2,
        atol=0.2,
    )

"""A small residual network that fits the size of its images and is trained from scratch.

Legend: B batch, C channels, H x W pixels, F features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.config import ImageConfig
from model.schema import Image

# The input is halved until the shorter side of the last feature map is about this many cells.
SMALLEST_MAP = 3
MAX_STAGES = 4


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(channels)
        nn.init.zeros_(last.weight)  # the block starts as the identity
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def halvings(height: int, width: int) -> tuple[int, list[bool]]:
    """Returns the stride of the first convolution and which stages end in a max-pool.

    The last feature map of an image of 8x8 pixels is 4x4, of 48x48 and of 224x224 it is 3x3.
    """
    count = max(0, round(math.log2(min(height, width) / SMALLEST_MAP)))
    stages = min(max(count, 2), MAX_STAGES)
    pools = min(count, stages)
    return 2 ** (count - pools), [False] * (stages - pools) + [True] * pools


class ResNet(nn.Module):
    """A convolutional network whose depth fits the size of its images.

    A stage is a convolution and a max-pool; the residual blocks come last, where the map is
    smallest and channels are cheapest. On small images this was better than strided residual stages
    at the same cost (docs/results/quality.md).
    """

    is_pretrained = False
    normalisation = None  # pixels are standardised by the data set's mean and deviation
    has_frozen_part = False

    def __init__(self, image: Image, config: ImageConfig) -> None:
        super().__init__()
        stride, pools = halvings(image.height, image.width)
        layers: list[nn.Module] = []
        inputs = image.channels
        for stage, pool in enumerate(pools):
            outputs, step = config.width * 2**stage, stride if stage == 0 else 1
            kernel = 3 if step <= 2 else 2 * step - 1
            layers += [
                nn.Conv2d(inputs, outputs, kernel, step, kernel // 2, bias=False),
                nn.BatchNorm2d(outputs),
            ]
            layers += [nn.MaxPool2d(2)] if pool else []
            # After the pool it gives the same numbers from a quarter of the work.
            layers += [nn.ReLU(inplace=True)]
            inputs = outputs
        self.layers = nn.Sequential(*layers, *(Residual(inputs) for _ in range(config.blocks)))
        self.features = inputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        map_BFHW: Tensor = self.layers(x_BCHW.contiguous(memory_format=torch.channels_last))
        return map_BFHW.mean((2, 3))

"""The image encoder, one image in and one embedding out, and how every embedding is standardised.

Legend: B batch, C channels, H x W pixels, R rows that have an image, F features, D embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.config import ImageConfig
from model.encoders.pretrained import Pretrained
from model.encoders.standardise import Standardise
from model.schema import Image

SMALLEST_MAP = (
    3  # the input is halved until the shorter side of the last feature map is about this many cells
)
STAGES = 4  # at most


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
    """Stride of the first convolution, and which stages end in a max-pool: 8x8 ends at 4x4, 48x48 at 3x3, 224x224 at 3x3."""
    count = max(0, round(math.log2(min(height, width) / SMALLEST_MAP)))
    stages = min(max(count, 2), STAGES)
    pools = min(count, stages)
    return 2 ** (count - pools), [False] * (stages - pools) + [True] * pools


class ResNet(nn.Module):
    """A convolutional network that fits its input: 8x8 up to 224x224 and beyond, 1 or 3 channels.

    A stage is a convolution and a max-pool; the residual blocks come last, where the map is smallest and channels are cheapest. On small
    images this was better than strided residual stages at the same cost (docs/results/quality.md).
    """

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
            layers += [
                nn.ReLU(inplace=True)
            ]  # after the pool: the same numbers from a quarter of the work
            inputs = outputs
        self.layers = nn.Sequential(*layers, *(Residual(inputs) for _ in range(config.blocks)))
        self.features = inputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.layers(x_BCHW.contiguous(memory_format=torch.channels_last)).mean((2, 3))  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """uint8 pixels (or floats in 0..1) -> [B, D]."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, image: Image, config: ImageConfig, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.tensor(image.mean or [0.5] * image.channels))
        self.register_buffer(
            "std_C", torch.tensor(image.std or [0.25] * image.channels).clamp_min(1e-3)
        )
        self.body: ResNet | Pretrained = (
            ResNet(image, config) if config.encoder == "resnet" else Pretrained(image, config)
        )
        self.head, self.norm = nn.Linear(self.body.features, dim), Standardise(dim)

    def forward(self, x_BCHW: Tensor, present_B: Tensor, whole: bool = False) -> Tensor:
        """whole: every record is known to have an image."""
        x_BCHW = x_BCHW / 255 if x_BCHW.dtype == torch.uint8 else x_BCHW
        x_BCHW = (x_BCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]
        x_BCHW = torch.where(
            present_B[:, None, None, None], x_BCHW, 0.0
        )  # what an absent image holds must not matter
        features_BF = (
            self.body(x_BCHW) if whole or not self.training else self.some(x_BCHW, present_B)
        )
        return self.norm(self.head(features_BF), present_B)  # type: ignore[no-any-return]

    def some(self, x_BCHW: Tensor, present_B: Tensor) -> Tensor:
        """Features of the records that have an image, 0 for the others: blanks must not enter the statistics of the batch.

        With too few for statistics the running ones serve; with none a blank goes through for nothing, so that the workers stay in step.
        """
        rows_R = present_B.nonzero()[:, 0]
        norms = [
            m
            for m in self.body.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
        ]
        idle = [norm for norm in norms if len(rows_R) < getattr(norm, "least", 2)]
        for norm in idle:
            norm.training, norm.idle = False, True  # type: ignore[assignment]
        features_RF = self.body(x_BCHW[rows_R] if len(rows_R) else x_BCHW[:1])
        for norm in idle:
            norm.training, norm.idle = True, False  # type: ignore[assignment]
        nothing_BF: Tensor = features_RF.new_zeros(len(x_BCHW), self.body.features)
        return nothing_BF.index_copy(0, rows_R, features_RF[: len(rows_R)])

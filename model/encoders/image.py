"""The image encoder: one image in, one embedding out.

Legend: B batch, C channels, H x W pixels, R records that have an image, F features, D embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.config import ImageConfig
from model.encoders.pretrained import Pretrained
from model.encoders.standardise import Standardise
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


class ImageEncoder(nn.Module):
    """Encodes images, uint8 or floats in 0..1, as embeddings [B, D]."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, image: Image, config: ImageConfig, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.tensor(image.mean or [0.5] * image.channels))
        std_C = torch.tensor(image.std or [0.25] * image.channels)
        self.register_buffer("std_C", std_C.clamp_min(1e-3))
        self.body: ResNet | Pretrained = (
            ResNet(image, config) if config.encoder == "resnet" else Pretrained(image, config)
        )
        self.head, self.norm = nn.Linear(self.body.features, dim), Standardise(dim)

    def forward(self, x_BCHW: Tensor, present_B: Tensor, all_present: bool = False) -> Tensor:
        """Returns the embeddings; all_present: every record is known to have an image."""
        x_BCHW = x_BCHW / 255 if x_BCHW.dtype == torch.uint8 else x_BCHW
        x_BCHW = (x_BCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]
        # The content of an absent image must not matter.
        x_BCHW = torch.where(present_B[:, None, None, None], x_BCHW, 0.0)
        if all_present or not self.training:
            features_BF = self.body(x_BCHW)
        else:
            features_BF = self.encode_present(x_BCHW, present_B)
        embeddings_BD: Tensor = self.norm(self.head(features_BF), present_B)
        return embeddings_BD

    def encode_present(self, x_BCHW: Tensor, present_B: Tensor) -> Tensor:
        """Returns the features of the records that have an image, and 0 for the others.

        Blank images must not enter the batch statistics. With fewer images than a batch
        normalisation needs, it uses its running statistics. With none at all, one blank image is
        encoded in vain, so that all workers take part in the same exchanges.
        """
        rows_R = present_B.nonzero()[:, 0]
        norms = [
            m
            for m in self.body.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
        ]
        # The batch normalisation over several workers declares by min_rows how many of its own rows
        # it needs, and learns by idle that it has fewer.
        idle = [norm for norm in norms if len(rows_R) < getattr(norm, "min_rows", 2)]
        for norm in idle:
            norm.training, norm.idle = False, True  # type: ignore[assignment]  # see above
        features_RF = self.body(x_BCHW[rows_R] if len(rows_R) else x_BCHW[:1])
        for norm in idle:
            norm.training, norm.idle = True, False  # type: ignore[assignment]  # see above
        zeros_BF: Tensor = features_RF.new_zeros(len(x_BCHW), self.body.features)
        return zeros_BF.index_copy(0, rows_R, features_RF[: len(rows_R)])

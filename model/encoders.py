"""The image encoder, one image in and one embedding out, and how every embedding is standardised.

Legend: B batch, C channels, H x W pixels, R rows that have an image, F features, D embedding.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import ImageConfig
from model.expert_losses import full
from model.schema import Image

SMALLEST_MAP = 3  # the input is halved until the shorter side of the last feature map is about this many cells
STAGES = 4  # at most


class Standardise(nn.Module):
    """Every feature of an embedding to mean 0 and deviation 1 over the records that have the modality, without a scale of its own.

    A modality of noise cannot grow a large embedding that the fusion would then fail to turn down; and unlike layer normalisation this
    leaves a record's own strength: an embedding far from the mean stays far.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, size: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.gather: Callable[[Tensor], Tensor] = alone  # moments of every worker, [W, 3, D]; the worker glue puts its own here
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, x_BD: Tensor, present_B: Tensor) -> Tensor:
        kind, x_BD = x_BD.dtype, full(x_BD)
        mean_D, var_D = self.moments(x_BD, present_B) if self.training else (self.running_mean, self.running_var)
        return ((x_BD - mean_D) * torch.rsqrt(var_D + self.eps)).to(kind)

    def moments(self, x_BD: Tensor, present_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over the present records of all workers, which also move the running ones; those, where fewer than two."""
        present_B1 = present_B[:, None].to(x_BD.dtype)
        own = present_B1.sum()
        mean_D = (x_BD * present_B1).sum(0) / own.clamp_min(1)
        square_D = ((x_BD - mean_D).square() * present_B1).sum(0)
        counts_WD, means_WD, squares_WD = self.gather(torch.stack([own.expand_as(mean_D), mean_D, square_D])).unbind(1)
        count_D = counts_WD.sum(0)
        mean_D = (counts_WD * means_WD).sum(0) / count_D.clamp_min(1)
        var_D = (squares_WD + counts_WD * (means_WD - mean_D).square()).sum(0) / count_D.clamp_min(1)
        enough_D = count_D > 1
        mean_D, var_D = torch.where(enough_D, mean_D, self.running_mean), torch.where(enough_D, var_D, self.running_var)
        with torch.no_grad():
            unbiased_D = torch.where(enough_D, var_D * count_D / (count_D - 1).clamp_min(1), var_D)
            self.running_mean.lerp_(mean_D, self.momentum)
            self.running_var.lerp_(unbiased_D, self.momentum)
        return mean_D, var_D


def alone(moments_3D: Tensor) -> Tensor:
    """The moments of the only worker."""
    return moments_3D[None]


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
    images this was better than strided residual stages at the same cost (benchmarks/RESULTS.md).
    """

    def __init__(self, image: Image, config: ImageConfig) -> None:
        super().__init__()
        stride, pools = halvings(image.height, image.width)
        layers: list[nn.Module] = []
        inputs = image.channels
        for stage, pool in enumerate(pools):
            outputs, step = config.width * 2**stage, stride if stage == 0 else 1
            kernel = 3 if step <= 2 else 2 * step - 1
            layers += [nn.Conv2d(inputs, outputs, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]
            layers += [nn.MaxPool2d(2)] if pool else []
            layers += [nn.ReLU(inplace=True)]  # after the pool: the same numbers from a quarter of the work
            inputs = outputs
        self.layers = nn.Sequential(*layers, *(Residual(inputs) for _ in range(config.blocks)))
        self.features = inputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.layers(x_BCHW.contiguous(memory_format=torch.channels_last)).mean((2, 3))  # type: ignore[no-any-return]


def _read_weights(path: str) -> dict[str, Tensor]:
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)  # type: ignore[no-any-return]
    return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


class Pretrained(nn.Module):
    """A timm backbone with weights from a local file, frozen or fine-tuned."""

    def __init__(self, image: Image, config: ImageConfig) -> None:
        super().__init__()
        name = config.encoder.removeprefix("timm:")
        try:
            import timm
        except ImportError:
            raise ValueError(
                f"image.encoder={config.encoder} needs the timm package: pip install timm; or use image.encoder=resnet"
            ) from None
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
            raise ValueError(f"image.encoder must name a timm model; got {name!r}; close: {', '.join(near) or 'none'}")
        self.body = timm.create_model(name, pretrained=False, num_classes=0, in_chans=image.channels)
        if config.weights:
            self.load(config.weights, image.channels)
        self.features = int(self.body.num_features)
        self.frozen = config.frozen
        self.body.requires_grad_(not config.frozen)

    def load(self, path: str, channels: int) -> None:
        """Weights of the same architecture; a first convolution made for other channels is adapted to these."""
        from timm.models import adapt_input_conv

        try:
            weights = _read_weights(path)
        except FileNotFoundError:
            raise ValueError(f"image.weights must be a local file of weights; got {path!r}") from None
        except Exception:  # what the reader raises depends on the bytes
            raise ValueError(f"image.weights must be a .safetensors file or one of tensors from torch.save; got {path!r}") from None
        first = self.body.pretrained_cfg.get("first_conv") or ()
        for name in (f"{layer}.weight" for layer in ([first] if isinstance(first, str) else first)):
            if name in weights:
                weights[name] = adapt_input_conv(channels, weights[name])
        own = self.body.state_dict()
        if unfit := [n for n in own if n not in weights or weights[n].shape != own[n].shape]:
            raise ValueError(f"image.weights must hold every weight of the encoder; {path!r} lacks {len(unfit)}, first {unfit[0]}")
        self.body.load_state_dict({name: weights[name] for name in own})

    def train(self, mode: bool = True) -> Pretrained:
        super().train(mode)
        if self.frozen:
            self.body.eval()  # frozen running statistics stay frozen too
        return self

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.body(x_BCHW)  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """uint8 pixels (or floats in 0..1) -> [B, D]."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, image: Image, config: ImageConfig, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.tensor(image.mean or [0.5] * image.channels))
        self.register_buffer("std_C", torch.tensor(image.std or [0.25] * image.channels).clamp_min(1e-3))
        self.body: ResNet | Pretrained = ResNet(image, config) if config.encoder == "resnet" else Pretrained(image, config)
        self.head, self.norm = nn.Linear(self.body.features, dim), Standardise(dim)

    def forward(self, x_BCHW: Tensor, present_B: Tensor, whole: bool = False) -> Tensor:
        """whole: every record is known to have an image."""
        x_BCHW = x_BCHW / 255 if x_BCHW.dtype == torch.uint8 else x_BCHW
        x_BCHW = (x_BCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]
        x_BCHW = torch.where(present_B[:, None, None, None], x_BCHW, 0.0)  # what an absent image holds must not matter
        features_BF = self.body(x_BCHW) if whole or not self.training else self.some(x_BCHW, present_B)
        return self.norm(self.head(features_BF), present_B)  # type: ignore[no-any-return]

    def some(self, x_BCHW: Tensor, present_B: Tensor) -> Tensor:
        """Features of the records that have an image, 0 for the others: blanks must not enter the statistics of the batch.

        With too few for statistics the running ones serve; with none a blank goes through for nothing, so that the workers stay in step.
        """
        rows_R = present_B.nonzero()[:, 0]
        norms = [m for m in self.body.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        idle = [norm for norm in norms if len(rows_R) < getattr(norm, "least", 2)]
        for norm in idle:
            norm.training, norm.idle = False, True  # type: ignore[assignment]
        features_RF = self.body(x_BCHW[rows_R] if len(rows_R) else x_BCHW[:1])
        for norm in idle:
            norm.training, norm.idle = True, False  # type: ignore[assignment]
        nothing_BF: Tensor = features_RF.new_zeros(len(x_BCHW), self.body.features)
        return nothing_BF.index_copy(0, rows_R, features_RF[: len(rows_R)])

"""TODO"""

from __future__ import annotations

import difflib

import torch
from torch import Tensor, nn

from model.config import ImageConfig
from model.schema import Image


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
            raise ValueError(
                f"image.encoder must name a timm model; got {name!r}; close: {', '.join(near) or 'none'}"
            )
        self.body = timm.create_model(
            name, pretrained=False, num_classes=0, in_chans=image.channels
        )
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
            raise ValueError(
                f"image.weights must be a local file of weights; got {path!r}"
            ) from None
        except Exception:  # what the reader raises depends on the bytes
            raise ValueError(
                f"image.weights must be a .safetensors file or one of tensors from torch.save; got {path!r}"
            ) from None
        first = self.body.pretrained_cfg.get("first_conv") or ()
        for name in (f"{layer}.weight" for layer in ([first] if isinstance(first, str) else first)):
            if name in weights:
                weights[name] = adapt_input_conv(channels, weights[name])
        own = self.body.state_dict()
        if unfit := [n for n in own if n not in weights or weights[n].shape != own[n].shape]:
            raise ValueError(
                f"image.weights must hold every weight of the encoder; {path!r} lacks {len(unfit)}, first {unfit[0]}"
            )
        self.body.load_state_dict({name: weights[name] for name in own})

    def train(self, mode: bool = True) -> Pretrained:
        super().train(mode)
        if self.frozen:
            self.body.eval()  # frozen running statistics stay frozen too
        return self

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.body(x_BCHW)  # type: ignore[no-any-return]

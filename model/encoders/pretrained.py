"""Image encoders of the timm package with weights from a local file."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor, nn

from model.config import ImageConfig
from model.schema import Image


def _read_weights(path: str) -> dict[str, Tensor]:
    """Returns the tensors of a file by name."""
    weights: dict[str, Tensor]
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file  # optional: only the timm extra installs it

        weights = load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    return weights


class Pretrained(nn.Module):
    """A timm backbone with weights from a local file, frozen or fine-tuned."""

    def __init__(self, image: Image, config: ImageConfig) -> None:
        super().__init__()
        name = config.encoder.removeprefix("timm:")
        try:
            import timm  # optional: only the timm extra installs it
        except ImportError:
            raise ValueError(
                f"image.encoder={config.encoder} needs the timm package: pip install timm;"
                " or use image.encoder=resnet"
            ) from None
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
            raise ValueError(
                f"image.encoder must name a timm model; got {name!r};"
                f" close: {', '.join(near) or 'none'}"
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
        """Loads weights of the same architecture.

        A first convolution for another number of channels is adapted to this number.
        """
        from timm.models import adapt_input_conv  # optional, as above

        try:
            weights = _read_weights(path)
        except FileNotFoundError:
            raise ValueError(
                f"image.weights must be a local file of weights; got {path!r}"
            ) from None
        except Exception:  # what the reader raises depends on the bytes
            raise ValueError(
                "image.weights must be a .safetensors file or one of tensors from torch.save;"
                f" got {path!r}"
            ) from None
        first = self.body.pretrained_cfg.get("first_conv") or ()
        for name in (f"{layer}.weight" for layer in ([first] if isinstance(first, str) else first)):
            if name in weights:
                weights[name] = adapt_input_conv(channels, weights[name])
        own = self.body.state_dict()
        if unfit := [n for n in own if n not in weights or weights[n].shape != own[n].shape]:
            raise ValueError(
                f"image.weights must hold every weight of the encoder; {path!r} lacks {len(unfit)},"
                f" first {unfit[0]}"
            )
        self.body.load_state_dict({name: weights[name] for name in own})

    def train(self, mode: bool = True) -> Pretrained:
        """Sets the training mode; a frozen backbone keeps its running statistics in any mode."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features_BF: Tensor = self.body(x_BCHW)
        return features_BF

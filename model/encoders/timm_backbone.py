"""Image encoders of the timm package, with weights of its hub or from a local file."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.config import ImageConfig
from model.schema import Image

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of each channel
HUB = "hub"  # image.weights=hub: timm downloads the weights once and keeps them
TOP_SHARE = 1 / 3  # image.trainable=top: the share of the layers that is trained


def _read_weights(path: str) -> dict[str, Tensor]:
    """Returns the tensors of a file by name."""
    weights: dict[str, Tensor]
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file  # optional: only the timm extra installs it

        weights = load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    return weights


class TimmBackbone(nn.Module):
    """A timm backbone, trained from scratch or pretrained.

    A pretrained one keeps the pixel normalisation and the batch statistics that it was trained
    with, and image.trainable says which of its weights are trained further.
    """

    has_frozen_part = False

    def __init__(self, image: Image, config: ImageConfig, pretrained: bool) -> None:
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
        from_hub = pretrained and config.weights == HUB
        try:
            self.body = timm.create_model(
                name, pretrained=from_hub, num_classes=0, in_chans=image.channels
            )
        except Exception as error:  # what the hub's libraries raise depends on the network
            if not from_hub:
                raise
            raise ValueError(
                f"image.weights=hub needs the weights of {name} from timm's hub once;"
                f" they cannot be loaded here ({type(error).__name__}): check the network, or give"
                " a local file"
            ) from None
        if pretrained and config.weights not in ("", HUB):
            self.load(config.weights, image.channels)
        self.features = int(self.body.num_features)
        self.is_pretrained = bool(config.weights)
        if self.is_pretrained:
            self.choose_trained(config.trainable)
        self.normalisation = self._own_normalisation(image) if self.is_pretrained else None

    def _own_normalisation(
        self, image: Image
    ) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Returns mean and deviation of the pixels that the weights were trained with."""
        mean, std = self.body.pretrained_cfg["mean"], self.body.pretrained_cfg["std"]
        if len(mean) == image.channels:
            return tuple(mean), tuple(std)
        if image.channels == 1:  # as the mean of three equal channels
            return (sum(mean) / len(mean),), (sum(std) / len(std),)
        return None

    def choose_trained(self, trainable: str) -> None:
        """Lets only those weights be trained that image.trainable names."""
        from timm.models import group_parameters  # optional, as above

        layers = group_parameters(self.body, self.body.group_matcher(coarse=False))
        first_trained = max(layers.values(), default=0) * (1 - TOP_SHARE)
        for name, parameter in self.body.named_parameters():
            chosen = {
                "head": False,
                "top": layers[name] > first_trained,
                "all": True,
                "bias": name.endswith("bias"),
            }
            parameter.requires_grad_(chosen[trainable])

    def load(self, path: str, channels: int) -> None:
        """Loads weights of the same architecture.

        A first convolution for another number of channels is adapted to this number.
        """
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
        from timm.models import adapt_input_conv  # optional, as above

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

    def train(self, mode: bool = True) -> TimmBackbone:
        """Sets the training mode; pretrained batch statistics stay as loaded in any mode."""
        super().train(mode)
        if self.is_pretrained:
            for module in self.body.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features_BF: Tensor = self.body(x_BCHW)
        return features_BF

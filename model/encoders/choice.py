"""Which image encoder `image.encoder=auto` takes. No torch is loaded here."""

from __future__ import annotations

from model.config import ImageConfig
from model.schema import Image

# The least colour channels and pixels of a side for pretrained weights.
COLOUR_CHANNELS, LEAST_SIDE = 3, 32


def choose_encoder(image: Image, config: ImageConfig) -> str:
    """Returns the name of the encoder; auto is decided by the images alone.

    ImageNet's weights serve pictures of things. On the built-in wafer maps, which have one channel,
    training from scratch is better (docs/results/quality.md).
    """
    if config.encoder != "auto":
        return config.encoder
    is_colour = image.channels >= COLOUR_CHANNELS
    is_large = min(image.height, image.width) >= LEAST_SIDE
    return "efficientnet_lite0" if is_colour and is_large else "resnet"

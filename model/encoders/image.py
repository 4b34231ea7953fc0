"""The image encoder: one image in, one embedding out.

Legend: B batch, C channels, H x W pixels, R records that have an image, F features, D embedding,
K numbers that the frozen part of a pretrained body gives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import ImageConfig
from model.encoders.efficientnet import EfficientNetLite0, package_weights
from model.encoders.resnet import ResNet
from model.encoders.standardise import Standardise
from model.encoders.timm_backbone import TimmBackbone
from model.schema import Image

Body = ResNet | EfficientNetLite0 | TimmBackbone


def build_body(image: Image, config: ImageConfig, pretrained: bool) -> Body:
    """Returns the convolutional body of image.encoder.

    pretrained: load its pretrained weights; false where a checkpoint's will replace them.
    """
    if config.encoder == "resnet":
        return ResNet(image, config)
    if config.encoder == "efficientnet_lite0":
        body = EfficientNetLite0(image, config)
        if pretrained:
            body.load(package_weights())
        return body
    return TimmBackbone(image, config, pretrained)


def pretrained_bodies(network: nn.Module) -> list[Body]:
    """Returns the pretrained convolutional bodies in a network."""
    encoders = [m for m in network.modules() if isinstance(m, ImageEncoder)]
    return [encoder.body for encoder in encoders if encoder.body.is_pretrained]


class ImageEncoder(nn.Module):
    """Encodes images, uint8 or floats in 0..1, as embeddings [B, D]."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(
        self, image: Image, config: ImageConfig, dim: int, pretrained: bool = True
    ) -> None:
        super().__init__()
        self.body = build_body(image, config, pretrained)
        mean, std = self.body.normalisation or (image.mean, image.std)
        self.register_buffer("mean_C", torch.tensor(mean or [0.5] * image.channels))
        std_C = torch.tensor(std or [0.25] * image.channels)
        self.register_buffer("std_C", std_C.clamp_min(1e-3))
        self.head, self.norm = nn.Linear(self.body.features, dim), Standardise(dim)

    def forward(self, x_BCHW: Tensor, present_B: Tensor, all_present: bool = False) -> Tensor:
        """Returns the embeddings; all_present: every record is known to have an image."""
        x_BCHW = self.standardise(x_BCHW, present_B)
        if all_present or not self.training:
            features_BF = self.body(x_BCHW)
        else:
            features_BF = self.encode_present(x_BCHW, present_B)
        embeddings_BD: Tensor = self.norm(self.head(features_BF), present_B)
        return embeddings_BD

    def standardise(self, x_BCHW: Tensor, present_B: Tensor) -> Tensor:
        """Returns the pixels as the body takes them; an absent image is blank."""
        x_BCHW = x_BCHW / 255 if x_BCHW.dtype == torch.uint8 else x_BCHW
        x_BCHW = (x_BCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]
        # The content of an absent image must not matter.
        return torch.where(present_B[:, None, None, None], x_BCHW, 0.0)

    def encode_frozen(self, x_BCHW: Tensor, present_B: Tensor) -> Tensor:
        """Returns what the frozen part of the body gives, [B, K], for `forward_frozen`."""
        assert isinstance(self.body, EfficientNetLite0)
        return self.body.encode_frozen(self.standardise(x_BCHW, present_B))

    def forward_frozen(self, frozen_BK: Tensor, present_B: Tensor) -> Tensor:
        """Returns the embeddings of images that `encode_frozen` has seen."""
        assert isinstance(self.body, EfficientNetLite0)
        features_BF = self.body.encode_trained(frozen_BK.float())
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

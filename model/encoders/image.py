"""The image encoder: one image in, one embedding out.

Legend: B batch, C channels, H x W pixels, R records that have an image, F features, D embedding,
V views of an image, K numbers that the frozen part of a pretrained body gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.config import ImageConfig
from model.encoders.choice import choose_encoder
from model.encoders.efficientnet import EfficientNetLite0, package_weights
from model.encoders.resnet import ResNet
from model.encoders.standardise import Standardise
from model.encoders.timm_backbone import TimmBackbone
from model.schema import Image

# The axes along which [B, C, H, W] is turned around for each mirror image, by ModelConfig.mirror.
MIRRORED_AXES: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": (),
    "horizontal": ((3,),),
    "vertical": ((2,),),
    "both": ((3,), (2,), (2, 3)),
}
Body = ResNet | EfficientNetLite0 | TimmBackbone


def build_body(image: Image, config: ImageConfig, pretrained: bool) -> Body:
    """Returns the convolutional body of image.encoder.

    pretrained: load its pretrained weights; false where a checkpoint's will replace them.
    """
    encoder = choose_encoder(image, config)
    if encoder == "resnet":
        return ResNet(image, config)
    if encoder == "efficientnet_lite0":
        body = EfficientNetLite0(image, config)
        if pretrained:
            body.load(package_weights())
        return body
    return TimmBackbone(image, config, pretrained)


def pretrained_bodies(network: nn.Module) -> list[Body]:
    """Returns the pretrained convolutional bodies in a network."""
    encoders = [m for m in network.modules() if isinstance(m, ImageEncoder)]
    return [encoder.body for encoder in encoders if encoder.body.is_pretrained]


def mean_of_views(features: Sequence[Tensor]) -> Tensor:
    """Returns the mean of the features of several views of the same images."""
    return features[0] if len(features) == 1 else torch.stack(list(features)).mean(0)


class ImageEncoder(nn.Module):
    """Encodes images, uint8 or floats in 0..1, as embeddings [B, D]."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(
        self,
        image: Image,
        config: ImageConfig,
        dim: int,
        pretrained: bool = True,
        mirror: str = "none",
    ) -> None:
        super().__init__()
        self.body = build_body(image, config, pretrained)
        self.mirrored_axes = MIRRORED_AXES[image.flips_for(mirror)]
        if mirror == "auto" and not self.body.is_pretrained:
            # Upside-down images double the cost of a test and do not pay with a body from scratch.
            self.mirrored_axes = self.mirrored_axes[:1]
        mean, std = self.body.normalisation or (image.mean, image.std)
        self.register_buffer("mean_C", torch.tensor(mean or [0.5] * image.channels))
        std_C = torch.tensor(std or [0.25] * image.channels)
        self.register_buffer("std_C", std_C.clamp_min(1e-3))
        # Features of several depths differ a hundredfold in size.
        self.scale = Standardise(self.body.features) if self.body.is_pretrained else None
        self.head, self.norm = nn.Linear(self.body.features, dim), Standardise(dim)

    def forward(
        self,
        x_BCHW: Tensor,
        present_B: Tensor,
        all_present: bool = False,
        rows_R: Tensor | None = None,
    ) -> Tensor:
        """Returns the embeddings.

        all_present: every record is known to have an image. rows_R: else the positions of those
        that have one, where they are known; to find them on a GPU waits for all work there.
        """
        x_BCHW = self.standardise(x_BCHW, present_B)
        if not self.training:
            features_BF = mean_of_views([self.body(view) for view in self.views(x_BCHW)])
        elif all_present:
            features_BF = self.body(x_BCHW)
        else:
            features_BF = self.encode_present(
                x_BCHW, present_B.nonzero()[:, 0] if rows_R is None else rows_R
            )
        return self.embed(features_BF, present_B)

    def embed(self, features_BF: Tensor, present_B: Tensor) -> Tensor:
        """Returns the embeddings of the body's features."""
        if self.scale is not None:
            features_BF = self.scale(features_BF, present_B)
        embeddings_BD: Tensor = self.norm(self.head(features_BF), present_B)
        return embeddings_BD

    def standardise(self, x_BCHW: Tensor, present_B: Tensor) -> Tensor:
        """Returns the pixels as the body takes them; an absent image is blank."""
        x_BCHW = x_BCHW / 255 if x_BCHW.dtype == torch.uint8 else x_BCHW
        x_BCHW = (x_BCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]
        # The content of an absent image must not matter.
        return torch.where(present_B[:, None, None, None], x_BCHW, 0.0)

    def views(self, x_BCHW: Tensor) -> list[Tensor]:
        """Returns the images and their mirror images, which are seen together at test."""
        return [x_BCHW, *(x_BCHW.flip(axes) for axes in self.mirrored_axes)]

    def encode_frozen(self, x_BCHW: Tensor, present_B: Tensor) -> Tensor:
        """Returns what the frozen part of the body gives, [B, K], for `forward_frozen`."""
        assert isinstance(self.body, EfficientNetLite0)
        return self.body.encode_frozen(self.standardise(x_BCHW, present_B))

    def encode_frozen_views(self, x_BCHW: Tensor, present_B: Tensor) -> Tensor:
        """Returns what the frozen part gives of the images and their mirror images, [B, V, K]."""
        views = [self.encode_frozen(view, present_B) for view in self.views(x_BCHW)]
        return torch.stack(views, 1)

    def shares_frozen_part(self, other: ImageEncoder) -> bool:
        """Whether another encoder's frozen part gives the same of every image."""
        body, of_other = self.body, other.body
        if not isinstance(body, EfficientNetLite0) or not isinstance(of_other, EfficientNetLite0):
            return False
        pairs = zip(body.frozen_tensors(), of_other.frozen_tensors())
        return (
            0 < body.first_trained == of_other.first_trained
            and self.mirrored_axes == other.mirrored_axes
            and body.size == of_other.size
            and torch.equal(self.mean_C, other.mean_C)
            and torch.equal(self.std_C, other.std_C)
            and all(torch.equal(mine, others) for mine, others in pairs)
        )

    def forward_frozen(self, frozen_BVK: Tensor, present_B: Tensor) -> Tensor:
        """Returns the embeddings of images of which `encode_frozen` has seen V views."""
        assert isinstance(self.body, EfficientNetLite0)
        views = [self.body.encode_trained(view.float()) for view in frozen_BVK.unbind(1)]
        features_BF = mean_of_views(views)
        return self.embed(features_BF, present_B)

    def encode_present(self, x_BCHW: Tensor, rows_R: Tensor) -> Tensor:
        """Returns the features of the records that have an image, rows_R, and 0 for the others.

        Blank images must not enter the batch statistics. With fewer images than a batch
        normalisation needs, it uses its running statistics. With none at all, one blank image is
        encoded in vain, so that all workers take part in the same exchanges.
        """
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

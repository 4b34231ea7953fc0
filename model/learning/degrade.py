"""Makes the class of some training images harder to see, but does not take it away.

Only images with a pretrained encoder are: its features stay apart under such changes, while a
network that is trained from scratch on a few hundred rows does not learn its classes any more.
Unlike the spoilt images of spoil.py, degraded ones keep their label: everything learns from them,
so that a fogged, pixelated or turned image counts for what it still shows. All draws are indexed by
the record's position in the global batch, as in augment.py. Legend: B batch, M modalities, V views,
K numbers, U uniform draws.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from model.batch import Batch
from model.copying import put
from model.learning.augment import derive_seed, uniform_draws
from model.learning.image_kinds import DEGRADING, DRAWS, Change, change_some, without
from model.schema import Image, Schema

TURN = "turn"  # the kind that keeps the class only where images have no fixed orientation


def degrading_kinds(image: Image, flip: str, left_out: Sequence[str]) -> dict[str, Change]:
    """Returns the changes that keep the class of an image.

    flip: the setting of the flips. left_out: kinds that are not used.
    """
    has_no_up = image.flips_for(flip) == "both"
    return without(DEGRADING, left_out if has_no_up else [*left_out, TURN])


def degrade_images(
    batch: Batch,
    schema: Schema,
    names: Collection[str],
    share: float,
    flip: str,
    left_out: Sequence[str],
    seed: int,
    step: int,
) -> Batch:
    """Returns the batch with the images of some records degraded, and which: degraded_BM.

    names: of the image modalities that may be degraded. share: of the records, for each of these.
    flip, left_out: as for `degrading_kinds`.
    """
    if not share or not names:
        return batch
    images, frozen = dict(batch.images), dict(batch.frozen)
    degraded_BM = torch.zeros_like(batch.present_BM)
    for k, image in enumerate(schema.images):
        kinds = degrading_kinds(image, flip, left_out)
        if image.name not in names or not kinds:
            continue
        m = schema.modalities.index(image.name)
        u_BU = uniform_draws(batch, 1 + DRAWS, derive_seed(seed, step, 20 + k), torch.device("cpu"))
        chosen_B = u_BU[:, 0] < share
        on_device_B = put(chosen_B, batch.present_BM.device)
        if image.name in images:
            images[image.name] = change_some(images[image.name], u_BU[:, 1:], chosen_B, kinds)
        elif image.name in batch.frozen_degraded:
            frozen[image.name] = torch.where(
                on_device_B[:, None, None], batch.frozen_degraded[image.name], frozen[image.name]
            )
        degraded_BM[:, m] = on_device_B & batch.present_BM[:, m]
    return batch.replace(images=images, frozen=frozen, degraded_BM=degraded_BM)

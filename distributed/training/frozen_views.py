"""Computes what the frozen part of a pretrained image encoder gives, once for every image.

The results lie in files of a folder for temporary files, which every training on the machine reads
without a copy: the trials of a search, the workers of a run and later runs. Legend: B rows of a
batch, V views, R rows, K numbers.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distributed.config import Config, split_list
from distributed.shards.batches import BatchSource, FrozenViews, MemorySource
from model.classifier import Classifier
from model.encoders.image import ImageEncoder
from model.learning.augment import augment_images
from model.learning.degrade import degrading_kinds
from model.learning.image_kinds import DRAWS as DRAWS_OF_A_KIND
from model.learning.image_kinds import SPOILING, Change, change_images, without
from model.schema import Image

VERSION = 3  # of the files; part of their names
MAX_BYTES = 8 << 30  # of all files together; the longest unused are removed
SLOWER = "the frozen part of the image encoder is computed anew for every batch"
SECONDS_OF_A_DAY = 86_400
DEGRADED_VIEWS, SPOILT_VIEWS = 3, 2
MEASURED_SECONDS, LONG_SECONDS = 5.0, 30.0  # of WaitNotice
BATCH = 16  # images computed together: their maps fit into a processor's cache
# The settings of the section `data` that change an image, beside data.flip.
AUGMENTATIONS = ("shift", "zoom", "rotate", "colour", "erase")
AUGMENTATION_DRAWS = 11  # uniform draws that the augmentation of one image takes
SEED = 0  # of the augmented views, which trainings of all seeds share


def with_frozen_views(source: BatchSource, network: Classifier, config: Config) -> BatchSource:
    """Returns the source with views in place of the pixels, where the encoder has a frozen part.

    A training source gets augmented views too. Sources that do not lie in memory stay as they are,
    and so do those of a network that is on a GPU already.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in network.parameters())
    if not isinstance(source, MemorySource) or not config.image.views or not on_cpu:
        return source
    frozen: dict[str, FrozenViews] = {}
    for image in network.schema.images:
        encoder = network.frozen_encoder(image.name)
        if encoder is None:
            continue
        pixels = source.arrays[f"images/{image.name}"]
        if source.plan.train:
            part = training_part(encoder, image, config)
        else:
            part = FrozenPart(encoder=encoder, config=config, mirrored=len(encoder.mirrored_axes))
        rows_R = np.unique(source.plan.selection.rows_R) if source.used_R is None else source.used_R
        try:
            if (
                part.spoilt
                and len(network.schema.modalities) == 1
                and not part.is_stored(pixels, rows_R)
            ):
                # Nothing is spoilt where there is one modality; but a training with others may have
                # left the file.
                part = dataclasses.replace(part, spoilt=0, spoiling={})
            frozen[image.name] = FrozenViews(
                part.of(pixels, rows_R), rows_R, part.degraded, part.spoilt, part.mirrored
            )
        except OSError as error:
            print(f"warning: {cache_folder()} cannot be used ({error}); {SLOWER}", file=sys.stderr)
            return source
    return dataclasses.replace(source, frozen=frozen)


def training_part(encoder: ImageEncoder, image: Image, config: Config) -> FrozenPart:
    """Returns the frozen part with the views that a training draws from."""
    data = config.data
    left_out = split_list(data.spoil_without)
    degrading = degrading_kinds(image, data.flip, left_out) if data.degrade else {}
    spoiling = without(SPOILING, left_out) if data.spoil else {}
    return FrozenPart(
        encoder=encoder,
        config=config,
        flips=image.flips_for(data.flip),
        augmented=config.image.views,
        degraded=DEGRADED_VIEWS if degrading else 0,
        degrading=degrading,
        spoilt=SPOILT_VIEWS if spoiling else 0,
        spoiling=spoiling,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """The frozen part of an image encoder, with the numbers of views that it gives.

    flips: that augmented images are made with.
    augmented: of augmented images, beside the one of the images as they are.
    degraded, spoilt: of images that are augmented and then changed in one of the ways of
        `degrading` or `spoiling`.
    mirrored: of mirror images, for an evaluation.
    """

    encoder: ImageEncoder
    config: Config
    flips: str = "none"
    augmented: int = 0
    degraded: int = 0
    degrading: Mapping[str, Change] = dataclasses.field(default_factory=dict)
    spoilt: int = 0
    spoiling: Mapping[str, Change] = dataclasses.field(default_factory=dict)
    mirrored: int = 0

    def of(self, pixels_RCHW: NDArray[np.uint8], rows_R: NDArray[np.int64]) -> NDArray[np.floating]:
        """Returns all views of the chosen rows, [V, R, K], from their file if there is one."""
        path = self._path(pixels_RCHW, rows_R)
        with locked(path.with_suffix(".lock")):
            values = read_views(path)
            if values is None:
                free_space(path.parent)
                self._write(path, pixels_RCHW, rows_R)
                values = read_views(path)
            os.utime(path)
        assert values is not None
        return values

    def is_stored(self, pixels_RCHW: NDArray[np.uint8], rows_R: NDArray[np.int64]) -> bool:
        """Whether an earlier training has left the file of these views."""
        return self._path(pixels_RCHW, rows_R).exists()

    def _path(self, pixels_RCHW: NDArray[np.uint8], rows_R: NDArray[np.int64]) -> Path:
        return cache_folder() / f"views-{VERSION}-{self._digest(pixels_RCHW, rows_R)}.npy"

    def _digest(self, pixels_RCHW: NDArray[np.uint8], rows_R: NDArray[np.int64]) -> str:
        """Returns a digest of everything that the values depend on."""
        body = self.encoder.body
        digest = hashlib.blake2b(digest_size=16)
        digest.update(np.ascontiguousarray(pixels_RCHW).data)
        digest.update(rows_R.tobytes())
        for frozen in [p for p in body.parameters() if not p.requires_grad]:
            # A trained network's weights may lie in another order in memory (channels_last).
            digest.update(np.ascontiguousarray(frozen.detach().numpy()).data)
        changes = {name: getattr(self.config.data, name) for name in AUGMENTATIONS}
        changes["flip"] = self.flips
        plain = [self.augmented, changes if self.augmented else {}]
        plain += [self.degraded, list(self.degrading), self.spoilt, list(self.spoiling)]
        plain.append(self.encoder.mirrored_axes if self.mirrored else [])
        digest.update(json.dumps(plain).encode())
        return digest.hexdigest()

    def _write(self, path: Path, pixels_RCHW: NDArray[np.uint8], rows_R: NDArray[np.int64]) -> None:
        """Computes all views and writes them to the file, which then appears as a whole."""
        # Validation and test rows keep full precision, so that their metrics are those of the
        # network on pixels.
        kind = np.float16 if self.augmented else np.float32
        size = self._encode(torch.from_numpy(pixels_RCHW[rows_R[:1]].copy())).shape[1]
        views = 1 + self.augmented + self.degraded + self.spoilt + self.mirrored
        shape = (views, len(rows_R), size)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix="partial-", delete=False) as file:
            try:
                values_VRK = np.lib.format.open_memmap(file.name, "w+", kind, shape)
                # A full disk must show here, as an error; later it would kill the process.
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(file.name))
                notice = WaitNotice(views * len(rows_R))
                for view, values_RK in enumerate(values_VRK):
                    self._fill(values_RK, view, pixels_RCHW, rows_R, notice)
                values_VRK.flush()
                os.fsync(file.fileno())  # a power cut must not keep the new name and lose the bytes
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

    def _fill(
        self,
        values_RK: NDArray[np.floating],
        view: int,
        pixels_RCHW: NDArray[np.uint8],
        rows_R: NDArray[np.int64],
        notice: WaitNotice,
    ) -> None:
        """Computes one view of the chosen rows."""
        generator = torch.Generator().manual_seed(SEED + view)
        draws = AUGMENTATION_DRAWS + DRAWS_OF_A_KIND
        draws_RU = torch.rand(len(rows_R), draws, generator=generator)
        for low in range(0, len(rows_R), BATCH):
            chosen = slice(low, low + BATCH)
            x_BCHW = torch.from_numpy(pixels_RCHW[rows_R[chosen]])
            values_RK[chosen] = self._encode(self._see(x_BCHW, view, draws_RU[chosen])).numpy()
            notice.add(len(x_BCHW))

    def _see(self, x_BCHW: Tensor, view: int, draws_BU: Tensor) -> Tensor:
        """Returns the images as this view shows them."""
        if view == 0:
            return x_BCHW
        if self.mirrored:
            return x_BCHW.flip(self.encoder.mirrored_axes[view - 1])
        u_BU = draws_BU[:, :AUGMENTATION_DRAWS]
        x_BCHW = augment_images(x_BCHW, u_BU, self.config.data, self.flips)
        if view <= self.augmented:
            return x_BCHW
        is_degraded = view <= self.augmented + self.degraded
        kinds = self.degrading if is_degraded else self.spoiling
        return change_images(x_BCHW, draws_BU[:, AUGMENTATION_DRAWS:], kinds)

    @torch.inference_mode()
    def _encode(self, x_BCHW: Tensor) -> Tensor:
        return self.encoder.encode_frozen(x_BCHW, torch.ones(len(x_BCHW), dtype=torch.bool))


class WaitNotice:
    """Says once how long the views will take, where that is long enough to wonder."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started, self.said = total, 0, time.perf_counter(), False

    def add(self, images: int) -> None:
        self.done += images
        seconds = time.perf_counter() - self.started
        if self.said or seconds < MEASURED_SECONDS:
            return
        self.said = True
        left = seconds * (self.total / self.done - 1)
        if left >= LONG_SECONDS:
            print(
                f"the frozen part of the image encoder sees {self.total:,} images and augmented "
                f"views: about {left / 60:.0f} min, once; later trainings on this machine read "
                "the results",
                file=sys.stderr,
                flush=True,
            )


def read_views(path: Path) -> NDArray[np.floating] | None:
    """Returns the views in a file; None where it is missing, cut or no array of numbers."""
    try:
        values: NDArray[np.floating] = np.load(path, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return values


def cache_folder() -> Path:
    """Returns the user's own folder for the files, which nobody else can write to."""
    folder = Path(tempfile.gettempdir()) / f"longtail-fusion-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ValueError(f"{folder} must belong to you; it belongs to another user: set TMPDIR")
    return folder


def free_space(folder: Path) -> None:
    """Removes the files that were not used for longest, until the others take half the limit."""
    for partial in folder.glob("partial-*"):  # of a process that was killed
        if time.time() - partial.stat().st_mtime > SECONDS_OF_A_DAY:
            partial.unlink()
    files = sorted(folder.glob("views-*.npy"), key=lambda file: file.stat().st_mtime)
    total = sum(file.stat().st_size for file in files)
    for file in files:
        if total <= MAX_BYTES // 2:
            break
        total -= file.stat().st_size
        file.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that other processes of this machine wait for."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

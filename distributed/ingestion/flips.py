"""Finds out which mirror images of a data set's pictures are of the same class.

A ridge classifier on the colours and gradients of a grid learns from one half of some training
pictures and judges the other half, as they are and mirrored, and the other way round. What it
keeps of its balanced accuracy above chance says whether a class depends on the direction: a
mirrored lesion is a lesion, a mirrored digit is none.

Legend: R rows, C channels, H x W pixels, F features, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distributed.ingestion.output import part_path
from distributed.raw.rows import IMAGE, LABEL
from distributed.runtime.storage import filesystem
from distributed.shards.decode import decode_stored_image
from distributed.shards.layout import SPLITS
from distributed.shards.sampling import random_generator
from model.schema import Image, Schema

GROUPS = 32  # row groups that are read, at most
ROWS = 2000  # pictures that are looked at, at most; every class has as many as any other, if it can
MOST_CLASSES = 100  # the most frequent ones; of more classes each would have too few pictures
LEAST_ROWS = 4  # of a class, in each half, on the mean
SIDE = 48  # pixels that each side of a picture is reduced to, at most
COLOUR_GRID, GRADIENT_GRID, DIRECTIONS = 6, 4, 8
RIDGE = 0.05  # on standardised features, as a share of the rows
DRAWS = 4  # halves are drawn so many times
KEPT_LITTLE = 0.4  # below it a flip from left to right is not made
KEPT_MOST = 0.8  # from here on pictures are also turned upside down
LEAST_ABOVE_CHANCE = 0.1  # what the classifier must know for its verdict to count

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]


def with_flips(schema: Schema, folder: str, train_files: int) -> Schema:
    """Returns the schema with the flips that every image modality allows.

    folder: that of the shards, whose training parts have been written.
    """
    if not schema.images:
        return schema
    table = _read_sample(folder, train_files, [IMAGE + image.name for image in schema.images])
    images = []
    for image in schema.images:
        pixels, labels_R = _decode(table, image)
        flips = allowed_flips(pixels, labels_R)
        images.append(dataclasses.replace(image, flips=flips))
    return dataclasses.replace(schema, images=tuple(images))


def _read_sample(folder: str, files: int, names: list[str]) -> pa.Table:
    """Returns the labels and encoded pictures of the first row groups of training rows."""
    pieces: list[pa.Table] = []
    for number in range(files):
        system, path = filesystem(part_path(folder, SPLITS[0], number))
        with system.open_input_file(path) as stream, pq.ParquetFile(stream) as part:
            for group in range(part.num_row_groups):
                if len(pieces) < GROUPS:
                    pieces.append(part.read_row_group(group, [LABEL, *names], use_threads=False))
        if len(pieces) >= GROUPS:
            break
    return pa.concat_tables(pieces)


def _decode(table: pa.Table, image: Image) -> tuple[Pixels, NDArray[np.int64]]:
    """Returns pictures in 0..1, [R, C, h, w], reduced in size, and their labels."""
    column = table[IMAGE + image.name]
    labels = table[LABEL].to_numpy().astype(np.int64)
    rows_R = np.flatnonzero(column.is_valid().to_numpy())
    frequent, counts = np.unique(labels[rows_R], return_counts=True)
    frequent = frequent[np.argsort(-counts, kind="stable")][:MOST_CLASSES]
    rows_R = rows_R[np.isin(labels[rows_R], frequent)]
    rows_R = rows_R[random_generator(0, 0).permutation(len(rows_R))]
    limit = ROWS // max(1, len(frequent))
    chosen: list[int] = []
    for label in frequent:
        chosen.extend(rows_R[labels[rows_R] == label][:limit].tolist())
    down, across = -(-image.height // SIDE), -(-image.width // SIDE)
    height, width = image.height // down, image.width // across
    pixels = np.empty((len(chosen), image.channels, height, width), np.float32)
    for place, number in enumerate(chosen):
        whole = decode_stored_image(column[number].as_py(), image)[
            : height * down, : width * across
        ]
        cells = whole.reshape(height, down, width, across, image.channels)
        pixels[place] = cells.mean((1, 3), dtype=np.float32).transpose(2, 0, 1) / 255
    return pixels, labels[chosen]


def allowed_flips(pixels_RCHW: Pixels, labels_R: NDArray[np.int64]) -> str:
    """Returns none, horizontal or both. Without evidence it is horizontal, as is usual."""
    if min(pixels_RCHW.shape[2:]) < COLOUR_GRID:
        return "horizontal"
    kept = kept_shares(pixels_RCHW, labels_R, [lambda x: x[..., ::-1], lambda x: x[..., ::-1, :]])
    if kept is None:
        return "horizontal"
    left_to_right, upside_down = kept
    if left_to_right < KEPT_LITTLE:
        return "none"
    return "both" if min(left_to_right, upside_down) >= KEPT_MOST else "horizontal"


def kept_shares(
    pixels_RCHW: Pixels,
    labels_R: NDArray[np.int64],
    changes: list[Callable[[Pixels], Pixels]],
) -> list[float] | None:
    """Returns what each change leaves of the classifier's balanced accuracy above chance.

    None: the classifier knows too little to tell.
    """
    classes, labels_R, counts_K = np.unique(labels_R, return_inverse=True, return_counts=True)
    if len(classes) < 2 or counts_K.sum() < 2 * LEAST_ROWS * len(classes):
        return None
    features = [_features(x) for x in (pixels_RCHW, *(change(pixels_RCHW) for change in changes))]
    weights_R = 1.0 / counts_K[labels_R]
    right = np.zeros(len(features))
    for draw in range(DRAWS):
        is_first_R = np.zeros(len(labels_R), np.bool_)
        is_first_R[random_generator(draw, 0).permutation(len(labels_R))[: len(labels_R) // 2]] = (
            True
        )
        for train_R in (is_first_R, ~is_first_R):
            predict = _fit_ridge(features[0][train_R], labels_R[train_R], weights_R[train_R])
            for number, of_change in enumerate(features):
                hit = predict(of_change[~train_R]) == labels_R[~train_R]
                right[number] += (hit * weights_R[~train_R]).sum()
    above_chance = right / (DRAWS * len(classes)) - 1 / len(classes)
    if above_chance[0] < LEAST_ABOVE_CHANCE:
        return None
    return [float(share) for share in above_chance[1:] / above_chance[0]]


def _fit_ridge(
    features_RF: Floats, labels_R: NDArray[np.int64], weights_R: Floats
) -> Callable[[Floats], NDArray[np.int64]]:
    """Returns the classifier of a weighted ridge regression on the classes."""
    mean_F, spread_F = features_RF.mean(0), features_RF.std(0) + 1e-4

    def inputs(of_rows: Floats) -> Floats:
        return np.concatenate([(of_rows - mean_F) / spread_F, np.ones((len(of_rows), 1))], 1)

    x_RF = inputs(features_RF)
    target_RK = np.eye(labels_R.max() + 1)[labels_R]
    moments_FF = (x_RF * weights_R[:, None]).T @ x_RF
    moments_FF += RIDGE * weights_R.sum() * np.eye(len(moments_FF))
    solution_FK = np.linalg.solve(moments_FF, (x_RF * weights_R[:, None]).T @ target_RK)
    return lambda of_rows: (inputs(of_rows) @ solution_FK).argmax(1)


def _features(x_RCHW: Pixels) -> Floats:
    """Returns the mean colours of a grid's cells, and their gradients by direction."""
    grey = x_RCHW.mean(1)
    down, right = np.zeros_like(grey), np.zeros_like(grey)
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    right[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    turns = (np.arctan2(down, right) + np.pi) / (2 * np.pi)
    direction = np.minimum((turns * DIRECTIONS).astype(np.int64), DIRECTIONS - 1)
    strength = np.hypot(down, right)
    gradients = np.stack([strength * (direction == d) for d in range(DIRECTIONS)], 1)
    colours = _cell_means(x_RCHW, COLOUR_GRID)
    return np.concatenate([colours, np.sqrt(_cell_means(gradients, GRADIENT_GRID))], 1)


def _cell_means(x_RCHW: Pixels, grid: int) -> Floats:
    height, width = x_RCHW.shape[2:]
    rows = np.linspace(0, height, grid + 1).round().astype(int)
    columns = np.linspace(0, width, grid + 1).round().astype(int)
    sums = np.add.reduceat(np.add.reduceat(x_RCHW, rows[:-1], 2), columns[:-1], 3)
    means: Floats = (sums / np.outer(np.diff(rows), np.diff(columns))).astype(np.float64)
    return means.reshape(len(x_RCHW), -1)

"""The confusion matrix of a split as a picture.

Legend: N rows, C classes, B blocks of neighbouring classes, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Pixels = NDArray[np.uint8]

MAX_NAMED_CLASSES = 64  # whose names can still be read
MAX_PIXELS = 1000  # of a side; with more classes, neighbouring ones share a pixel
MAX_NAME_LENGTH = 18  # characters of a class name
WHITE, BLUE, OUTLINE = (250, 250, 252), (20, 60, 140), (200, 80, 40)


def confusion_image(predictions_N: Tensor, labels_N: Tensor, names: Sequence[str]) -> Pixels:
    """[H, W, 3]: true classes down, predicted ones across, darkness the share of the row.

    The diagonal is outlined where there is space. While there are few enough to read, rows carry
    a number and a name, columns the number. Where there are more classes than pixels, one pixel
    stands for a block of neighbours: its darkness is the mean share of the block's rows that
    were predicted as any of the block across.
    """
    classes = len(names)
    share_BB = block_shares(predictions_N, labels_N, classes)
    blocks = len(share_BB)
    has_names = classes <= MAX_NAMED_CLASSES
    cell = max(14, 320 // classes) if has_names else max(1, min(4, MAX_PIXELS // classes))
    light, dark = np.array(WHITE, np.float32), np.array(BLUE, np.float32)
    shade_BB1 = share_BB.numpy()[..., None]
    image_BB3 = (light + shade_BB1 * (dark - light)).astype(np.uint8)
    image_HW3: Pixels = image_BB3.repeat(cell, 0).repeat(cell, 1)
    if cell > 3:
        for block in range(blocks):
            outline(image_HW3, block * cell, (block + 1) * cell - 1)
    return add_class_names(image_HW3, cell, names) if has_names else image_HW3


def block_shares(predictions_N: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """[B, B]: for each block of true classes, the mean share predicted as each block."""
    labelled_N = labels_N >= 0
    labels_N, predictions_N = labels_N[labelled_N], predictions_N[labelled_N]
    size = -(-classes // MAX_PIXELS)  # classes of a block, rounded up
    blocks = -(-classes // size)
    rows_C = torch.bincount(labels_N, minlength=classes)
    classes_with_rows_B = torch.bincount(
        torch.arange(classes) // size, weights=(rows_C > 0).float()
    )
    positions_N = labels_N // size * blocks + predictions_N // size
    sums = torch.bincount(positions_N, weights=1 / rows_C[labels_N], minlength=blocks**2)
    sums_BB = sums.float().reshape(blocks, blocks)
    return sums_BB / classes_with_rows_B.float().clamp_min(1)[:, None]


def outline(image_HW3: Pixels, low: int, high: int) -> None:
    """Draws the border of the square from (low, low) to (high, high), both included."""
    side = slice(low, high + 1)
    image_HW3[low, side] = OUTLINE
    image_HW3[high, side] = OUTLINE
    image_HW3[side, low] = OUTLINE
    image_HW3[side, high] = OUTLINE


def add_class_names(image_HW3: Pixels, cell: int, names: Sequence[str]) -> Pixels:
    """The image with the classes' names to its left and their numbers above it."""
    font = ImageFont.load_default()
    titles = [f"{c} {name[:MAX_NAME_LENGTH]}" for c, name in enumerate(names)]
    left, top = int(max(font.getlength(title) for title in titles)) + 8, 14
    page = Image.new("RGB", (image_HW3.shape[1] + left, image_HW3.shape[0] + top), "white")
    page.paste(Image.fromarray(image_HW3), (left, top))
    draw = ImageDraw.Draw(page)
    for c, title in enumerate(titles):
        middle = int((c + 0.5) * cell)
        draw.text((left - 4, top + middle), title, fill="black", font=font, anchor="rm")
        draw.text((left + middle, top - 2), str(c), fill="black", font=font, anchor="mb")
    return np.asarray(page)

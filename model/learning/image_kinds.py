"""Changes of pixels: some leave little of an image, others make its class harder to see.

Every change takes images in 0..1 and uniform draws for each, and gives images of the same shape, so
that a batch is changed at once. Legend: B batch, S changed images, C channels, H x W pixels,
U uniform draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from model.copying import put
from model.learning.augment import in_unit_range

Change = Callable[[Tensor, Tensor], Tensor]
DRAWS = 6  # uniform draws of an image: its kind, and five for the kind
BLOCK = 8  # pixels of a side of the blocks that a JPEG file is made of
LARGEST_CELL = 8  # pixels of a side that `coarsen` makes one


def noise(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Mixes the images with noise, which has at least half of the weight."""
    return torch.lerp(x_SCHW, _noise_like(x_SCHW, u_SU[:, 0]), _column(0.5 + u_SU[:, 1] / 2))


def blank(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Replaces the images by one colour each."""
    colour_SC = u_SU[:, : x_SCHW.shape[1]]
    return colour_SC[:, :, None, None].expand_as(x_SCHW)


def blur(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Leaves 3 x 3 to 6 x 6 cells of the images."""
    height, width = x_SCHW.shape[2:]
    fine = functional.adaptive_avg_pool2d(x_SCHW, (6, 6))
    coarse = functional.interpolate(functional.avg_pool2d(fine, 2), (6, 6), mode="nearest")
    cells = torch.where(_column(u_SU[:, 0]) < 0.5, fine, coarse)
    return functional.interpolate(cells, (height, width), mode="bilinear")


def cover(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Covers three quarters or more of the images, from one side, with one grey."""
    return _cover_share(x_SCHW, u_SU, 0.75 + u_SU[:, 1] / 4)


# These leave little of what an image shows.
SPOILING: dict[str, Change] = {"noise": noise, "blank": blank, "blur": blur, "cover": cover}


def tone(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Gives black and white two other levels: fog, darkness, a pale print, a negative."""
    black_S, white_S = u_SU[:, 0], u_SU[:, 1]
    # At least a fifth of the contrast stays.
    spread_S = white_S - black_S
    spread_S = torch.where(spread_S < 0, -1.0, 1.0) * spread_S.abs().clamp_min(0.2)
    black_S = torch.minimum(
        torch.maximum(black_S, (-spread_S).clamp_min(0)), 1 - spread_S.clamp_min(0)
    )
    return _column(black_S) + _column(spread_S) * x_SCHW


def recolour(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Exchanges the colour channels, and takes some or all of the colour away.

    Images of one channel change their tone instead.
    """
    channels = x_SCHW.shape[1]
    if channels == 1:
        return tone(x_SCHW, u_SU)
    order_SC = torch.argsort(u_SU[:, :channels], 1)
    index_SCHW = order_SC[:, :, None, None].expand_as(x_SCHW)
    exchanged_SCHW = x_SCHW.gather(1, index_SCHW)
    # Half of the images keep their channels and lose colour only.
    x_SCHW = torch.where(_column(u_SU[:, 3]) < 0.5, x_SCHW, exchanged_SCHW)
    return torch.lerp(x_SCHW, x_SCHW.mean(1, keepdim=True), _column(u_SU[:, 4]))


def coarsen(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Replaces the pixels by means: of square cells in half of the images, else of neighbours."""
    size_S = 2 + (u_SU[:, 0] * (LARGEST_CELL - 1)).floor().clamp_max(LARGEST_CELL - 2)
    in_cells_S = u_SU[:, 1] < 0.5
    for axis in (2, 3):
        x_SCHW = _means(x_SCHW, size_S, in_cells_S, axis)
    return x_SCHW


def compress(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Rounds the frequencies of blocks of pixels, as JPEG does at a low quality."""
    height, width = x_SCHW.shape[2:]
    padded = functional.pad(x_SCHW, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    rows, columns = padded.shape[2] // BLOCK, padded.shape[3] // BLOCK
    blocks = padded.view(*x_SCHW.shape[:2], rows, BLOCK, columns, BLOCK).transpose(3, 4)
    cosines_FP = _cosines(x_SCHW.device)
    frequencies = cosines_FP @ blocks @ cosines_FP.T  # [S, C, rows, columns, F, F]
    order_F = torch.arange(BLOCK, device=x_SCHW.device)
    coarser_FF = 1 + (order_F[:, None] + order_F[None]) / 2
    step = 0.02 * 25 ** u_SU[:, 0].view(-1, 1, 1, 1, 1, 1) * coarser_FF
    blocks = cosines_FP.T @ ((frequencies / step).round() * step) @ cosines_FP
    whole: Tensor = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return whole[:, :, :height, :width].clamp(0, 1)


def strike_out(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Replaces every second to eighth line or column by one of two levels in turn."""
    period_S = 2 + (u_SU[:, 0] * 7).floor().clamp_max(6)
    struck, level = [], []
    for axis in (2, 3):
        place = torch.arange(x_SCHW.shape[axis], device=x_SCHW.device).view(
            (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        )
        period = _column(period_S)
        struck.append((place % period == 0).expand(len(x_SCHW), 1, *x_SCHW.shape[2:]))
        is_second = torch.div(place, period, rounding_mode="floor") % 2 == 1
        level.append(torch.where(is_second, _column(u_SU[:, 2]), _column(u_SU[:, 3])))
    rows_S = _column(u_SU[:, 1]) < 0.5
    lines = torch.where(rows_S, struck[0], struck[1])
    levels = torch.where(rows_S, level[0].expand_as(lines), level[1].expand_as(lines))
    return torch.where(lines, levels, x_SCHW)


def speckle(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Makes up to four in ten pixels black or white, or mixes in up to four tenths of noise."""
    drawn_SCHW = _noise_like(x_SCHW, u_SU[:, 0])
    share = 0.4 * _column(u_SU[:, 1])
    pixel_S1HW = drawn_SCHW[:, :1]
    black_or_white = torch.where(pixel_S1HW < share / 2, 0.0, x_SCHW)
    black_or_white = torch.where(pixel_S1HW > 1 - share / 2, 1.0, black_or_white)
    return torch.where(
        _column(u_SU[:, 2]) < 0.5, black_or_white, torch.lerp(x_SCHW, drawn_SCHW, share)
    )


def hide(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Covers a tenth to six tenths of the images, from one side, with one grey."""
    return _cover_share(x_SCHW, u_SU, 0.1 + u_SU[:, 1] / 2)


def turn(x_SCHW: Tensor, u_SU: Tensor) -> Tensor:
    """Turns the images by a quarter, to the left or right; bars fill the frame, as in ingest."""
    height, width = x_SCHW.shape[2:]
    turned = x_SCHW.transpose(2, 3)
    scale = min(height / width, width / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    inner = (min(height, inner[0]), min(width, inner[1]))
    if inner != (width, height):
        turned = functional.interpolate(turned, inner, mode="bilinear", antialias=True)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    framed = functional.pad(
        turned, (left, width - inner[1] - left, top, height - inner[0] - top)
    ).clamp(0, 1)
    # To transpose and to mirror one axis is a quarter turn; which axis is its direction.
    return torch.where(_column(u_SU[:, 0]) < 0.5, framed.flip(2), framed.flip(3))


# These make the class harder to see, but do not take it away. A turned image is of the same class
# only where images have no fixed orientation.
DEGRADING: dict[str, Change] = {
    "tone": tone,
    "recolour": recolour,
    "coarsen": coarsen,
    "compress": compress,
    "strike_out": strike_out,
    "speckle": speckle,
    "hide": hide,
    "turn": turn,
}


def without(kinds: Mapping[str, Change], left_out: Sequence[str]) -> dict[str, Change]:
    """Returns the kinds that are not left out."""
    return {name: change for name, change in kinds.items() if name not in left_out}


def change_images(x_SCHW: Tensor, u_SU: Tensor, kinds: Mapping[str, Change]) -> Tensor:
    """Returns the images, each changed by one of the kinds, in 0..1.

    u_SU: the first draw chooses the kind, on the CPU; the others are for the kind.
    """
    x_SCHW = in_unit_range(x_SCHW)
    changed_SCHW = x_SCHW.clone()
    chosen_S = (u_SU[:, 0] * len(kinds)).long().clamp_max(len(kinds) - 1)
    for k, change in enumerate(kinds.values()):
        rows = (chosen_S == k).nonzero()[:, 0]
        if len(rows):
            u_RU = put(u_SU[rows, 1:], x_SCHW.device)
            rows = put(rows, x_SCHW.device)
            changed_SCHW[rows] = change(x_SCHW[rows], u_RU)
    return changed_SCHW


def change_some(
    x_BCHW: Tensor, u_BU: Tensor, chosen_B: Tensor, kinds: Mapping[str, Change]
) -> Tensor:
    """Returns the images, in 0..1, with the chosen ones changed.

    u_BU, chosen_B: on the CPU; to find rows on a GPU would wait for all work there.
    """
    changed_BCHW = in_unit_range(x_BCHW).clone()
    rows = chosen_B.nonzero()[:, 0]
    if len(rows) and kinds:
        on_device = put(rows, x_BCHW.device)
        changed_BCHW[on_device] = change_images(x_BCHW[on_device], u_BU[rows], kinds)
    return changed_BCHW


def _cover_share(x_SCHW: Tensor, u_SU: Tensor, share_S: Tensor) -> Tensor:
    """Returns the images with a share of each covered from the side that the first draw chooses.

    The third draw is the grey.
    """
    height, width = x_SCHW.shape[2:]
    rows_H = torch.linspace(0, 1, height, device=x_SCHW.device)[:, None].expand(height, width)
    columns_W = torch.linspace(0, 1, width, device=x_SCHW.device).expand(height, width)
    sides_4HW = torch.stack([rows_H, 1 - rows_H, columns_W, 1 - columns_W])
    side_SHW = sides_4HW[(u_SU[:, 0] * 4).long().clamp_max(3)]
    covered_S1HW = (side_SHW < share_S[:, None, None])[:, None]
    return torch.where(covered_S1HW, _column(u_SU[:, 2]), x_SCHW)


def _means(x_SCHW: Tensor, size_S: Tensor, in_cells_S: Tensor, axis: int) -> Tensor:
    """Returns means of `size` pixels along an axis: of cells side by side, or around each pixel."""
    length = x_SCHW.shape[axis]
    place_1L = torch.arange(length, device=x_SCHW.device)[None]
    size_S1 = size_S[:, None]
    start_SL = torch.where(
        in_cells_S[:, None],
        torch.div(place_1L, size_S1, rounding_mode="floor") * size_S1,
        place_1L - torch.div(size_S1, 2, rounding_mode="floor"),
    )
    low_SL = start_SL.clamp_min(0).long()
    high_SL = (start_SL + size_S1).clamp_max(length).long()
    shape = (-1, 1, length, 1) if axis == 2 else (-1, 1, 1, length)
    sums = functional.pad(x_SCHW.cumsum(axis), (0, 0, 1, 0) if axis == 2 else (1, 0))
    low, high = (
        sums.gather(axis, bound_SL.view(shape).expand(x_SCHW.shape))
        for bound_SL in (low_SL, high_SL)
    )
    return ((high - low) / (high_SL - low_SL).view(shape)).clamp(0, 1)


def _cosines(device: torch.device) -> Tensor:
    """Returns the orthonormal cosine transform of a block's side, [F, P]."""
    place = torch.arange(BLOCK, device=device) + 0.5
    frequency = torch.arange(BLOCK, device=device)[:, None]
    cosines = torch.cos(math.pi / BLOCK * place * frequency) * math.sqrt(2 / BLOCK)
    return torch.where(frequency == 0, cosines / math.sqrt(2), cosines)


def _noise_like(x_SCHW: Tensor, u_S: Tensor) -> Tensor:
    """Returns uniform noise; that of a record depends on its draw only."""
    cells = x_SCHW[0].numel()
    phase_S1 = u_S[:, None].double()
    steps_1L = torch.arange(1, cells + 1, device=x_SCHW.device, dtype=torch.float64)[None]
    values_SL = torch.sin(steps_1L * 12.9898 + phase_S1 * 78233.0) * 43758.5453
    return (values_SL - values_SL.floor()).to(x_SCHW.dtype).view(x_SCHW.shape)


def _column(values_S: Tensor) -> Tensor:
    """Returns one value a record with the axes of images."""
    return values_S[:, None, None, None]

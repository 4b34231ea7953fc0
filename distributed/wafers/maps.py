"""Draws wafer maps: which dies of a round wafer fail, for each of the nine known defect patterns.

Legend: N wafers, G dies along the longest grid, S pixels. Positions are in wafer radii, the
centre is (0, 0), y points down, angles are radians.

A pattern is a function of the dies' positions that returns each die's probability to fail by it;
its parameters are random for every wafer. Everything is drawn die by die, so that another image
size shows the same wafers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

OUTSIDE, PASS, FAIL = 0, 127, 255  # the three grey levels of a map
MAX_DIES = 32
# Wafers drawn at once. It bounds memory; another number would give other wafers for a seed.
CHUNK = 1024

# Dies across, dies down, and the notch's angle, by recipe (a recipe makes one product).
GRIDS: dict[str, tuple[int, int, float]] = {
    "R10": (26, 26, np.pi / 2),
    "R20": (30, 30, np.pi / 2),
    "R30": (25, 32, np.pi / 2),
    "R40": (32, 28, np.pi),
}


@dataclass(frozen=True)
class Dies:
    """The positions of the dies of N wafers, [N, G, G]."""

    x: FloatArray
    y: FloatArray
    radius: FloatArray
    angle: FloatArray
    inside: NDArray[np.bool_]

    def polar(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns every die's distance and direction from one point of its wafer."""
        dx, dy = self.x - x, self.y - y
        return np.hypot(dx, dy), np.arctan2(dy, dx)


Draw = Callable[[float, float], FloatArray]  # draws one uniform number for every wafer, [N, 1, 1]
Pattern = Callable[[Dies, Draw], FloatArray]


def _wrap(angle: FloatArray) -> FloatArray:
    """Returns the same angle in -pi..pi."""
    wrapped: FloatArray = (angle + np.pi) % (2 * np.pi) - np.pi
    return wrapped


def _soft(distance: FloatArray, width: float | FloatArray = 0.05) -> FloatArray:
    """Returns 1 well inside (distance << 0), 0 well outside, and between them along the border.

    The border is some dies wide, as that of real clusters is.
    """
    inside: FloatArray = 1 / (1 + np.exp(np.clip(distance / width, -30, 30)))
    return inside


def _ripple(angle: FloatArray, draw: Draw, size: float) -> FloatArray:
    """Returns an irregular outline: a factor around 1 that varies slowly with the direction."""
    waves = [
        draw(0, size) / np.sqrt(k) * np.sin(k * angle + draw(-np.pi, np.pi)) for k in (1, 2, 3, 5)
    ]
    outline: FloatArray = 1 + np.sum(waves, axis=0)
    return outline


def _blob(dies: Dies, draw: Draw, x: FloatArray, y: FloatArray, radius: FloatArray) -> FloatArray:
    """Returns an irregular ellipse around (x, y)."""
    distance, angle = dies.polar(x, y)
    stretch = 1 + draw(0, 0.4) * np.cos(2 * (angle - draw(-np.pi, np.pi)))
    return _soft(distance - radius * stretch * _ripple(angle, draw, 0.15))


def _none(dies: Dies, draw: Draw) -> FloatArray:
    return np.zeros_like(dies.x)


def _centre(dies: Dies, draw: Draw) -> FloatArray:
    return _blob(dies, draw, draw(-0.1, 0.1), draw(-0.1, 0.1), draw(0.18, 0.42)) * draw(0.75, 1)


def _donut(dies: Dies, draw: Draw) -> FloatArray:
    distance, angle = dies.polar(draw(-0.12, 0.12), draw(-0.12, 0.12))
    ring = np.abs(distance - draw(0.36, 0.6) * _ripple(angle, draw, 0.06)) - draw(0.09, 0.17)
    closed = _soft(np.abs(_wrap(angle - draw(-np.pi, np.pi))) - draw(2.4, 3.8), 0.15)
    return _soft(ring, 0.04) * closed * draw(0.65, 0.95)


def _edge_loc(dies: Dies, draw: Draw) -> FloatArray:
    away = np.abs(_wrap(dies.angle - draw(-np.pi, np.pi)))
    reach = draw(0.2, 0.75)
    depth = (
        draw(0.12, 0.34)
        * np.sqrt(np.clip(1 - (away / (1.25 * reach)) ** 2, 0, 1))
        * _ripple(dies.angle, draw, 0.12)
    )
    return _soft(away - reach, 0.06) * _soft(1 - depth - dies.radius, 0.03) * draw(0.7, 1)


def _edge_ring(dies: Dies, draw: Draw) -> FloatArray:
    away = np.abs(_wrap(dies.angle - draw(-np.pi, np.pi)))
    inner = 1 - draw(0.08, 0.2) * _ripple(dies.angle, draw, 0.15)
    return _soft(inner - dies.radius, 0.025) * _soft(away - draw(2.1, 4.0), 0.2) * draw(0.65, 1)


def _loc(dies: Dies, draw: Draw) -> FloatArray:
    radius, angle = draw(0.3, 0.62), draw(-np.pi, np.pi)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    return _blob(dies, draw, x, y, draw(0.15, 0.28)) * draw(0.75, 1)


def _scratch(dies: Dies, draw: Draw) -> FloatArray:
    """Returns a thin arc, as a particle under a rotating pad leaves it.

    Its middle lies within the wafer, its curvature is small.
    """
    middle_radius, middle_angle = draw(0, 0.6), draw(-np.pi, np.pi)
    heading, arc_radius = draw(-np.pi, np.pi), draw(0.6, 3)
    x = middle_radius * np.cos(middle_angle) - arc_radius * np.cos(heading)
    y = middle_radius * np.sin(middle_angle) - arc_radius * np.sin(heading)
    distance, angle = dies.polar(x, y)
    along = np.abs(_wrap(angle - heading)) * arc_radius
    return (
        (np.abs(distance - arc_radius) < draw(0.036, 0.055))
        * _soft(along - draw(0.35, 0.9), 0.02)
        * draw(0.8, 1)
    )


def _random(dies: Dies, draw: Draw) -> FloatArray:
    return np.ones_like(dies.x) * draw(0.18, 0.5)


def _near_full(dies: Dies, draw: Draw) -> FloatArray:
    radius, angle = draw(0.4, 1.1), draw(-np.pi, np.pi)
    spared = _blob(dies, draw, radius * np.cos(angle), radius * np.sin(angle), draw(0, 0.35))
    return (1 - 0.8 * spared) * draw(0.8, 0.98)


PATTERNS: dict[str, Pattern] = {
    "none": _none,
    "edge-ring": _edge_ring,
    "edge-loc": _edge_loc,
    "center": _centre,
    "loc": _loc,
    "scratch": _scratch,
    "random": _random,
    "donut": _donut,
    "near-full": _near_full,
}


def _die_positions(grids: FloatArray) -> Dies:
    """Returns the positions of all dies and whether each is on the wafer.

    grids: one row per wafer (dies across, dies down, notch angle).
    """
    across, down, notch = (grids[:, k, None, None] for k in range(3))
    index = np.arange(MAX_DIES)
    x, y = np.broadcast_arrays((2 * index + 1) / across - 1, (2 * index[:, None] + 1) / down - 1)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    notched = (radius > 0.9) & (np.abs(_wrap(angle - notch)) < 0.045)
    return Dies(x, y, radius, angle, (radius < 0.985) & ~notched)


def _stripes(draw: Draw) -> FloatArray:
    """Returns what a faulty probe card leaves: rows or columns of failed dies at a fixed pitch."""
    index = np.arange(MAX_DIES)
    position = np.where(draw(0, 1) < 0.5, index[None, None, :], index[None, :, None])
    return (position % np.floor(draw(2, 5)) < 1) * draw(0.5, 0.95)


def _fail(
    pattern: str,
    grids: FloatArray,
    visible: FloatArray,
    faulty: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Returns the grey levels [N, G, G] of some wafers of one pattern."""

    def draw(low: float, high: float) -> FloatArray:
        return rng.uniform(low, high, (len(grids), 1, 1))

    dies, share = _die_positions(grids), visible[:, None, None]
    defects = PATTERNS[pattern](dies, draw) * share
    # Dies near the edge of any wafer fail more often; a washed-out map is a noisier one too.
    background = (draw(0.1, 0.25) ** 2 + 0.06 * (1 - share) * draw(0, 1)) * (1 + dies.radius**6)
    stripes = _stripes(draw)
    rate = 1 - (1 - background) * (1 - np.where(faulty[:, None, None], stripes, defects))
    failed = rng.random(rate.shape) < rate
    return np.where(dies.inside, np.where(failed, FAIL, PASS), OUTSIDE).astype(np.uint8)


def _pixels(levels: NDArray[np.uint8], grids: FloatArray, size: int) -> NDArray[np.uint8]:
    """Turns [N, G, G] dies into [N, S, S] pixels; each shows the die under its centre."""
    centres = (np.arange(size) + 0.5) / size
    column, row = (np.floor(centres * grids[:, k, None]).astype(np.intp) for k in range(2))
    return levels[np.arange(len(grids))[:, None, None], row[:, :, None], column[:, None, :]]


def draw_maps(
    labels: NDArray[np.object_],
    recipes: NDArray[np.object_],
    visible: FloatArray,
    faulty: NDArray[np.bool_],
    size: int,
    seed: np.random.SeedSequence,
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
    """Yields the wafer maps in chunks: (row numbers [N], maps [N, S, S]).

    visible: in 0..1, how much of the pattern is left. faulty: the probe card was faulty, which
    leaves stripes and nothing else. size: pixels of a map's side.
    """
    grids = np.array([GRIDS[r] for r in recipes])
    for pattern, stream in zip(PATTERNS, seed.spawn(len(PATTERNS))):
        rng = np.random.default_rng(stream)
        rows = np.flatnonzero(labels == pattern)
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            levels = _fail(pattern, grids[chunk], visible[chunk], faulty[chunk], rng)
            yield chunk, _pixels(levels, grids[chunk], size)

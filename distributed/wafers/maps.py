"""Draws wafer maps: which dies of a round wafer fail, for each of the nine known defect patterns.

Legend: N wafers, G dies along the longest grid, S pixels. Positions are in wafer radii, the centre is (0, 0), y points down, angles are
radians. A pattern is a function of the dies' positions that gives each die's probability to fail by it; its parameters are random for
every wafer. Everything is drawn die by die, so that another image size shows the same wafers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

OUTSIDE, PASS, FAIL = 0, 127, 255  # the three grey levels of a map
MAX_DIES = 32
CHUNK = 1024  # wafers drawn at once: bounds memory, and is part of what a seed means

# Dies across, dies down, and where the notch is, by recipe (a recipe makes one product).
GRIDS: dict[str, tuple[int, int, float]] = {
    "R10": (26, 26, np.pi / 2),
    "R20": (30, 30, np.pi / 2),
    "R30": (25, 32, np.pi / 2),
    "R40": (32, 28, np.pi),
}


@dataclass(frozen=True)
class Dies:
    """Where the dies of N wafers are."""

    x: Array  # [N, G, G]
    y: Array
    radius: Array
    angle: Array
    inside: NDArray[np.bool_]

    def polar(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Distance and direction of every die as seen from one point a wafer."""
        dx, dy = self.x - x, self.y - y
        return np.hypot(dx, dy), np.arctan2(dy, dx)


Draw = Callable[[float, float], Array]  # one uniform number a wafer, [N, 1, 1]
Pattern = Callable[[Dies, Draw], Array]


def _turn(angle: Array) -> Array:
    """The angle brought to -pi..pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _soft(distance: Array, width: float | Array = 0.05) -> Array:
    """1 well inside (distance << 0), 0 well outside: a border some dies wide, as real clusters have."""
    return 1 / (1 + np.exp(np.clip(distance / width, -30, 30)))


def _ripple(angle: Array, draw: Draw, size: float) -> Array:
    """An irregular outline: a factor around 1 that varies slowly with direction."""
    waves = [
        draw(0, size) / np.sqrt(k) * np.sin(k * angle + draw(-np.pi, np.pi)) for k in (1, 2, 3, 5)
    ]
    return 1 + np.sum(waves, axis=0)


def _blob(dies: Dies, draw: Draw, x: Array, y: Array, radius: Array) -> Array:
    """An irregular ellipse."""
    distance, angle = dies.polar(x, y)
    stretch = 1 + draw(0, 0.4) * np.cos(2 * (angle - draw(-np.pi, np.pi)))
    return _soft(distance - radius * stretch * _ripple(angle, draw, 0.15))


def _none(dies: Dies, draw: Draw) -> Array:
    return np.zeros_like(dies.x)


def _centre(dies: Dies, draw: Draw) -> Array:
    return _blob(dies, draw, draw(-0.1, 0.1), draw(-0.1, 0.1), draw(0.18, 0.42)) * draw(0.75, 1)


def _donut(dies: Dies, draw: Draw) -> Array:
    distance, angle = dies.polar(draw(-0.12, 0.12), draw(-0.12, 0.12))
    ring = np.abs(distance - draw(0.36, 0.6) * _ripple(angle, draw, 0.06)) - draw(0.09, 0.17)
    closed = _soft(np.abs(_turn(angle - draw(-np.pi, np.pi))) - draw(2.4, 3.8), 0.15)
    return _soft(ring, 0.04) * closed * draw(0.65, 0.95)


def _edge_loc(dies: Dies, draw: Draw) -> Array:
    away = np.abs(_turn(dies.angle - draw(-np.pi, np.pi)))
    reach = draw(0.2, 0.75)
    depth = (
        draw(0.12, 0.34)
        * np.sqrt(np.clip(1 - (away / (1.25 * reach)) ** 2, 0, 1))
        * _ripple(dies.angle, draw, 0.12)
    )
    return _soft(away - reach, 0.06) * _soft(1 - depth - dies.radius, 0.03) * draw(0.7, 1)


def _edge_ring(dies: Dies, draw: Draw) -> Array:
    away = np.abs(_turn(dies.angle - draw(-np.pi, np.pi)))
    inner = 1 - draw(0.08, 0.2) * _ripple(dies.angle, draw, 0.15)
    return _soft(inner - dies.radius, 0.025) * _soft(away - draw(2.1, 4.0), 0.2) * draw(0.65, 1)


def _loc(dies: Dies, draw: Draw) -> Array:
    far, where = draw(0.3, 0.62), draw(-np.pi, np.pi)
    return _blob(dies, draw, far * np.cos(where), far * np.sin(where), draw(0.15, 0.28)) * draw(
        0.75, 1
    )


def _scratch(dies: Dies, draw: Draw) -> Array:
    """A thin arc, as a particle under a rotating pad leaves; its middle lies within the wafer, its curvature is small."""
    far, where, heading, bend = draw(0, 0.6), draw(-np.pi, np.pi), draw(-np.pi, np.pi), draw(0.6, 3)
    x, y = (
        far * np.cos(where) - bend * np.cos(heading),
        far * np.sin(where) - bend * np.sin(heading),
    )
    distance, angle = dies.polar(x, y)
    along = np.abs(_turn(angle - heading)) * bend
    return (
        (np.abs(distance - bend) < draw(0.036, 0.055))
        * _soft(along - draw(0.35, 0.9), 0.02)
        * draw(0.8, 1)
    )


def _random(dies: Dies, draw: Draw) -> Array:
    return np.ones_like(dies.x) * draw(0.18, 0.5)


def _near_full(dies: Dies, draw: Draw) -> Array:
    far, where = draw(0.4, 1.1), draw(-np.pi, np.pi)
    spared = _blob(dies, draw, far * np.cos(where), far * np.sin(where), draw(0, 0.35))
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


def _place(grids: Array) -> Dies:
    """The dies of wafers whose grids are rows of (dies across, dies down, notch angle)."""
    across, down, notch = (grids[:, k, None, None] for k in range(3))
    index = np.arange(MAX_DIES)
    x, y = np.broadcast_arrays((2 * index + 1) / across - 1, (2 * index[:, None] + 1) / down - 1)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    notched = (radius > 0.9) & (np.abs(_turn(angle - notch)) < 0.045)
    return Dies(x, y, radius, angle, (radius < 0.985) & ~notched)


def _stripes(draw: Draw) -> Array:
    """What a faulty probe card leaves: whole rows or columns of dies that read as failed, at a fixed pitch."""
    index = np.arange(MAX_DIES)
    position = np.where(draw(0, 1) < 0.5, index[None, None, :], index[None, :, None])
    return (position % np.floor(draw(2, 5)) < 1) * draw(0.5, 0.95)


def _fail(
    pattern: str, grids: Array, visible: Array, faulty: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Grey levels [N, G, G] of one chunk of wafers of one pattern."""

    def draw(low: float, high: float) -> Array:
        return rng.uniform(low, high, (len(grids), 1, 1))

    dies, seen = _place(grids), visible[:, None, None]
    defects = PATTERNS[pattern](dies, draw) * seen
    # Dies near the edge of any wafer fail more often; a washed-out map is a noisier one too.
    background = (draw(0.1, 0.25) ** 2 + 0.06 * (1 - seen) * draw(0, 1)) * (1 + dies.radius**6)
    stripes = _stripes(draw)
    rate = 1 - (1 - background) * (1 - np.where(faulty[:, None, None], stripes, defects))
    failed = rng.random(rate.shape) < rate
    return np.where(dies.inside, np.where(failed, FAIL, PASS), OUTSIDE).astype(np.uint8)


def _pixels(levels: NDArray[np.uint8], grids: Array, size: int) -> NDArray[np.uint8]:
    """Every pixel shows the die under its centre: [N, G, G] dies to [N, S, S] pixels."""
    centres = (np.arange(size) + 0.5) / size
    column, row = (np.floor(centres * grids[:, k, None]).astype(np.intp) for k in range(2))
    return levels[np.arange(len(grids))[:, None, None], row[:, :, None], column[:, None, :]]


def draw_maps(
    labels: NDArray[np.object_],
    recipes: NDArray[np.object_],
    visible: Array,
    faulty: NDArray[np.bool_],
    size: int,
    seed: np.random.SeedSequence,
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
    """Wafer maps by the chunk: (row numbers [N], maps [N, S, S]).

    visible in 0..1 is how much of the pattern is left; a faulty probe card leaves stripes and nothing else.
    """
    grids = np.array([GRIDS[r] for r in recipes])
    for pattern, stream in zip(PATTERNS, seed.spawn(len(PATTERNS))):
        rng = np.random.default_rng(stream)
        rows = np.flatnonzero(labels == pattern)
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            levels = _fail(pattern, grids[chunk], visible[chunk], faulty[chunk], rng)
            yield chunk, _pixels(levels, grids[chunk], size)

"""Corrupts one modality of some rows for studies: noise, permuted content, or no content at all.

The same rows get the same content every time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distributed.shards.decode import Arrays
from model.schema import Schema

CORRUPTION_KINDS = ("noise", "shuffle", "missing")
RULE = "a corruption must be MODALITY=KIND[:FRACTION]"
Keys = NDArray[np.uint64]


@dataclass(frozen=True)
class Corruption:
    """One term of a corruption: it applies to rows whose key, as a number in 0..1, is in a range.

    The range is [low, low + share), taken around the circle: beyond 1 it goes on at 0.
    """

    modality: str
    kind: str
    low: float
    share: float


def parse_corruption(text: str, schema: Schema) -> tuple[Corruption, ...]:
    """Returns the terms of MODALITY=KIND[:FRACTION],... checked against the schema.

    Terms with fractions apply to disjoint rows as long as the fractions sum to 1 or less.
    """
    terms: list[Corruption] = []
    low = 0.0
    for part in filter(None, (part.strip() for part in text.split(","))):
        modality, equals, rest = part.partition("=")
        kind, colon, fraction = rest.partition(":")
        if not equals or modality not in schema.modalities:
            valid = ", ".join(schema.modalities)
            raise ValueError(
                f"{RULE} with a modality of the data set; got {part!r}; valid: {valid}"
            )
        if kind not in CORRUPTION_KINDS:
            valid = ", ".join(CORRUPTION_KINDS)
            raise ValueError(f"{RULE} with a known kind; got {part!r}; valid: {valid}")
        try:
            share = float(fraction) if colon else 1.0
        except ValueError:
            share = -1.0
        if not 0 < share <= 1:
            raise ValueError(f"{RULE} with a fraction above 0 and at most 1; got {part!r}")
        terms.append(Corruption(modality, kind, low % 1.0, share))
        low += share
    return tuple(terms)


def apply_corruption(arrays: Arrays, text: str, schema: Schema, *, seed: int, split: str) -> Arrays:
    """Returns the arrays with the corruption applied; changed arrays are copies.

    Which rows and what noise depend on (label, rank, split, seed) only. They are the same in
    every epoch, so that an encoder can memorise a dead modality as it would in life, and they
    differ between splits, so that what it memorised is of no use there. `shuffle` permutes among
    the given rows: those of the split when it is in memory, those of one batch in a stream.
    """
    terms = parse_corruption(text, schema)
    if not terms:
        return arrays
    changed = dict(arrays)
    keys_B = row_keys(arrays["labels"], arrays["ranks"], f"{seed}/{split}")
    circle_B = keys_B.astype(np.float64) / 2.0**64
    for term in terms:
        if term.share < 1:
            rows = np.flatnonzero((circle_B - term.low) % 1.0 < term.share)
        else:
            rows = np.arange(len(keys_B))
        _apply_term(changed, term, schema, rows, keys_B, seed)
    return changed


def _apply_term(
    arrays: Arrays,
    term: Corruption,
    schema: Schema,
    rows: NDArray[np.int64],
    keys_B: Keys,
    seed: int,
) -> None:
    """Replaces those arrays that the term changes."""
    place = schema.modalities.index(term.modality)
    kinds = ("images", "numbers", "categories")
    content = [f"{kind}/{term.modality}" for kind in kinds if f"{kind}/{term.modality}" in arrays]
    present_BM = arrays["present"] = arrays["present"].copy()
    if term.kind == "missing":
        present_BM[rows, place] = False
        return
    for name in content:
        arrays[name] = arrays[name].copy()
    if term.kind == "noise":
        add_noise(arrays, schema, place, rows[present_BM[rows, place]], keys_B)
        return
    order = np.random.default_rng([seed, place, len(rows)]).permutation(rows)
    present_BM[rows, place] = present_BM[order, place]
    for name in content:
        arrays[name][rows] = arrays[name][order]


def add_noise(
    arrays: Arrays, schema: Schema, place: int, rows: NDArray[np.int64], keys_B: Keys
) -> None:
    """Replaces the content of these rows, whatever it is.

    Pixels become uniform, numbers come from N(mean, std), and categories are uniform over the
    vocabulary. place: the modality's index.
    """
    name, images = schema.modalities[place], len(schema.images)
    for row in rows:
        rng = np.random.Generator(np.random.Philox(key=int(keys_B[row]) << 64 | place))
        if place < images:
            pixels_CHW = arrays[f"images/{name}"][row]
            noise = np.frombuffer(rng.bytes(pixels_CHW.size), np.uint8)
            pixels_CHW[...] = noise.reshape(pixels_CHW.shape)
            continue
        table = schema.tables[place - images]
        moments = np.array([(column.mean, column.std) for column in table.numeric]).reshape(-1, 2)
        arrays[f"numbers/{name}"][row] = rng.normal(moments[:, 0], moments[:, 1])
        sizes = np.array([len(column.vocabulary) for column in table.categorical])
        arrays[f"categories/{name}"][row] = np.where(sizes > 0, rng.random(len(sizes)) * sizes, -1)


def row_keys(labels_B: NDArray[np.int32], ranks_B: NDArray[np.int32], salt: str) -> Keys:
    """Returns 64 well-mixed bits for every row (splitmix64) of its label, its rank and the salt."""
    digest = hashlib.blake2b(salt.encode(), digest_size=8).digest()
    salt_bits = np.uint64(int.from_bytes(digest, "little"))
    label_bits_B = (labels_B.astype(np.int64) + 1).astype(np.uint64)
    rank_bits_B = (ranks_B.astype(np.int64) + 1).astype(np.uint64)
    with np.errstate(over="ignore"):
        x = (label_bits_B << np.uint64(32)) + rank_bits_B
        x = (x ^ salt_bits) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

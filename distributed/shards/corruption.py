"""Sabotage for studies: replaces, permutes or removes one modality of some rows, the same rows with the same content every time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distributed.shards.decode import Arrays
from model.schema import Schema

CORRUPTION_KINDS = ("noise", "shuffle", "missing")
Keys = NDArray[np.uint64]


@dataclass(frozen=True)
class Corruption:
    """One term of the specification: rows whose lot lies in [low, low + share) of the unit circle."""

    modality: str
    kind: str
    low: float
    share: float


def parse_corruption(spec: str, schema: Schema) -> tuple[Corruption, ...]:
    """MODALITY=KIND[:FRACTION],... as terms. Terms with fractions take disjoint rows as long as the fractions sum to 1 or less."""
    terms: list[Corruption] = []
    low = 0.0
    for part in filter(None, (p.strip() for p in spec.split(","))):
        modality, equals, rest = part.partition("=")
        kind, colon, fraction = rest.partition(":")
        rule = "a corruption must be MODALITY=KIND[:FRACTION]"
        if not equals or modality not in schema.modalities:
            raise ValueError(
                f"{rule} with a modality of the data set; got {part!r}; valid: {', '.join(schema.modalities)}"
            )
        if kind not in CORRUPTION_KINDS:
            raise ValueError(
                f"{rule} with a known kind; got {part!r}; valid: {', '.join(CORRUPTION_KINDS)}"
            )
        try:
            share = float(fraction) if colon else 1.0
        except ValueError:
            share = -1.0
        if not 0 < share <= 1:
            raise ValueError(f"{rule} with a fraction above 0 and at most 1; got {part!r}")
        terms.append(Corruption(modality, kind, low % 1.0, share))
        low += share
    return tuple(terms)


def apply_corruption(arrays: Arrays, spec: str, schema: Schema, *, seed: int, split: str) -> Arrays:
    """The arrays with the specification applied, copies where changed.

    Which rows and what noise are functions of (label, rank, split, seed): the same in every epoch, so that an encoder can memorise
    a dead modality as it would in life, and different between splits, so that what it memorised is of no use there. `shuffle`
    permutes among the rows given: those of the split in the memory regime, those of one batch in a stream.
    """
    terms = parse_corruption(spec, schema)
    if not terms:
        return arrays
    changed = dict(arrays)
    keys_B = row_keys(arrays["labels"], arrays["ranks"], f"{seed}/{split}")
    lots_B = keys_B.astype(np.float64) / 2.0**64
    for term in terms:
        rows = (
            np.flatnonzero((lots_B - term.low) % 1.0 < term.share)
            if term.share < 1
            else np.arange(len(keys_B))
        )
        place = schema.modalities.index(term.modality)
        names = [
            name
            for name in (
                f"images/{term.modality}",
                f"numbers/{term.modality}",
                f"categories/{term.modality}",
            )
            if name in arrays
        ]
        for name in ("present", *(names if term.kind != "missing" else ())):
            changed[name] = changed[name].copy()
        if term.kind == "missing":
            changed["present"][rows, place] = False
        elif term.kind == "shuffle":
            order = np.random.default_rng([seed, place, len(rows)]).permutation(rows)
            changed["present"][rows, place] = changed["present"][order, place]
            for name in names:
                changed[name][rows] = changed[name][order]
        else:
            add_noise(changed, schema, place, rows[changed["present"][rows, place]], keys_B)
    return changed


def add_noise(
    arrays: Arrays, schema: Schema, place: int, rows: NDArray[np.int64], keys_B: Keys
) -> None:
    """Uniform random pixels; numbers from N(mean, std) and categories uniform over the vocabulary, whatever the row."""
    name, images = schema.modalities[place], len(schema.images)
    for row in rows:
        lot = np.random.Generator(np.random.Philox(key=int(keys_B[row]) << 64 | place))
        if place < images:
            pixels_CHW = arrays[f"images/{name}"][row]
            pixels_CHW[...] = np.frombuffer(lot.bytes(pixels_CHW.size), np.uint8).reshape(
                pixels_CHW.shape
            )
            continue
        table = schema.tables[place - images]
        spread = np.array([(column.mean, column.std) for column in table.numeric]).reshape(-1, 2)
        arrays[f"numbers/{name}"][row] = lot.normal(spread[:, 0], spread[:, 1])
        sizes = np.array([len(column.vocabulary) for column in table.categorical])
        arrays[f"categories/{name}"][row] = np.where(sizes > 0, lot.random(len(sizes)) * sizes, -1)


def row_keys(labels_B: NDArray[np.int32], ranks_B: NDArray[np.int32], salt: str) -> Keys:
    """64 well-mixed bits a row (splitmix64) of its label, its rank and the salt."""
    salted = np.uint64(
        int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "little")
    )
    with np.errstate(over="ignore"):
        x = ((labels_B.astype(np.int64) + 1).astype(np.uint64) << np.uint64(32)) + (
            ranks_B.astype(np.int64) + 1
        ).astype(np.uint64)
        x = (x ^ salted) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

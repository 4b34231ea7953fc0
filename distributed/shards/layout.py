"""The names in a SHARDS folder. Constants only, so that every command's --help may import them."""

from __future__ import annotations

SPLITS = ("train", "val", "test")
POOL = "train+val"  # the rows of both splits, as they are cut anew by data.folds
TRAIN, VAL, TEST = 0, 1, 2  # indices into SPLITS
REFUSED_SPLIT = -1  # the split index of a row that is in no split
VERSION = 1  # of the format; code reads folders up to its own version
MANIFEST = "schema.json"
REJECTED = "rejected.parquet"
GROUP = "group"  # the column with the name of a row's group, where the data has groups

# The values that a user's own split column may have, in lower case.
SPLIT_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "dev": VAL,
    "test": TEST,
    "testing": TEST,
}

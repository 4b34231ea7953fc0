"""The shards that the commands work on: those of the user, or the built-in example data.

Light, because every command imports it before it knows whether the example data is needed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from distributed.raw.instead_of_shards import refuse_table
from distributed.runtime.holder import FolderHeld
from distributed.runtime.shell import shown_location
from distributed.runtime.storage import absolute_location
from distributed.shards.layout import MANIFEST, VERSION
from distributed.wafers.options import WAFERS_VERSION, WaferOptions


def resolve_shards(place: str | None) -> str:
    """Returns the shards to work on: those named, else the built-in wafers, which it says."""
    if place:
        refuse_table(place)
        return absolute_location(place)
    shards = default_shards()
    where = shown_location(shards)
    print(f"note: no data is named: the built-in wafers are used ({where})", file=sys.stderr)
    return shards


def default_shards() -> str:
    """Returns the shards of the example data with its default parameters.

    They are written into the user's cache folder on first use. That is a folder of this machine:
    on a cluster of several, write the shards to shared storage (--shards) and name them by --data.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "longtail-fusion" / f"wafers-{WAFERS_VERSION}-{VERSION}"
    manifest = folder / MANIFEST
    if manifest.exists():
        return str(folder)
    # Drawing and ingesting take pandas and Ray, which a command with shards need not load for it.
    from distributed.wafers.shards import write_wafer_shards

    print(f"making the built-in wafer data in {folder}", file=sys.stderr)
    while not manifest.exists():
        try:
            with contextlib.redirect_stdout(sys.stderr):
                write_wafer_shards(WaferOptions(shards=str(folder)))
        except FolderHeld:  # another process makes the same shards
            time.sleep(1)
        except (ValueError, OSError):
            if not manifest.exists():
                raise
    return str(folder)

"""Makes a SHARDS folder from a table and its images, through Ray Data."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed.ingestion.options import IngestOptions
from distributed.runtime import command, lease, options


def main(argv: list[str]) -> int:
    chosen = options.read(IngestOptions, argv, prog="ingest.py", description=__doc__)
    lease.refuse_held(chosen.out)
    # Ray and pandas take seconds to import, which --help and a refusal need not wait for.
    from distributed.ingestion.pipeline import ingest

    ingest(chosen).show()
    return 0


if __name__ == "__main__":
    command.run(main)

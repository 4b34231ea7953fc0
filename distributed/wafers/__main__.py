"""The built-in example data set: wafer maps of nine defect patterns with a long tail, and a
table of process readings.

Neither half is enough. Maps are washed out to varying degrees, and what is then hard to tell
apart in a map (a faint scratch, a faint local cluster, a faint edge cluster, a good wafer) leaves
different traces in the readings; what the readings confuse (particles under a local cluster and
all over the wafer; an etch that is uneven at the edge or in the middle) is easy to tell apart in
a map.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from distributed.runtime import command, lease, options
from distributed.wafers.options import WaferOptions


def main(argv: list[str]) -> int:
    chosen = options.read(
        WaferOptions, argv, prog="python -m distributed.wafers", description=__doc__
    )
    if chosen.shards:
        lease.refuse_held(chosen.shards)
    # Ray and pandas take seconds to import, which --help and a refusal need not wait for.
    from distributed.wafers.shards import write_wafers

    counts = write_wafers(chosen)
    print(f"{sum(counts.values())} wafers: " + ", ".join(f"{k} {n}" for k, n in counts.items()))
    return 0


if __name__ == "__main__":
    command.run(main)

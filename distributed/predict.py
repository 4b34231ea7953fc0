"""Predicts new rows, of shards or straight from a table and its images, through a pool of model
actors.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed.inference.options import PredictOptions
from distributed.runtime import command, lease, options
from distributed.runtime.errors import Failure

COLUMNS = """\
columns of the predictions, a row each row of the data, in its order: id; split (of shards);
the columns of --keep; label, where one is given;
prediction, empty where abstained; probability, of the predicted class; abstained;
expected_cost (--cost); set, its classes, the most probable first, and set_size (--coverage);
entropy (nats); p/CLASS; weight/MODALITY, 0 to 1, in the fusion;
unfamiliar/MODALITY, whether it is unlike anything in training; expert_weight/N;
contribution/PART, to the probability of the class, and patches/IMAGE, row by row (--explain);
reason, why the row was refused, empty where it was not.
exit code: 3 where more than half of the rows were refused, a warning from 10 % on"""

MOSTLY_REFUSED = 3  # exit code


def main(argv: list[str]) -> int:
    chosen = options.read(
        PredictOptions, argv, prog="predict.py", description=__doc__, epilog=COLUMNS
    )
    lease.refuse_held(chosen.out)
    # PyTorch takes seconds to import, which --help and mistakes in the options need not wait for.
    from distributed.inference.batches.batch_prediction import predict

    result = predict(chosen)
    result.show()
    if result.is_mostly_refused:
        raise Failure(
            f"{result.refused:,} of {result.rows:,} rows were refused, more than half: "
            f"the reasons are in {result.out}",
            MOSTLY_REFUSED,
        )
    return 0


if __name__ == "__main__":
    command.run(main)

"""AutoGluon's TabularPredictor, on the table alone.

plain: the preset best_quality, told to reach accuracy. balanced: rows weighted by their class, told
to reach balanced accuracy. The validation rows choose the weights of the final mixture. Its model
that reads pictures too, AG_AUTOMM, is refused without a GPU; autogluon_mm.py trains what is in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from autogluon.tabular import TabularPredictor

if __package__ in (None, ""):
    # At the end, so that no folder here is taken for a package of the environment.
    sys.path[0:1] = []
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.peers import rows

SECONDS = 240  # of wall time, on one core
VARIANTS: dict[str, dict[str, str]] = {
    "plain": {"eval_metric": "accuracy"},
    "balanced": {"eval_metric": "balanced_accuracy", "sample_weight": "balance_weight"},
}


def main() -> None:
    args = rows.arguments(__doc__)
    description = rows.describe(args.tables)
    columns = [*description["numeric"], *description["categorical"], rows.LABEL]
    train, val, test = (rows.read(args.tables, s)[columns] for s in ("train", "val", "test"))
    target = VARIANTS[args.variant]
    predictor = TabularPredictor(label=rows.LABEL, path=str(args.out / "model"), **target)
    chosen = {
        "presets": "best_quality",
        "use_bag_holdout": True,
        "time_limit": SECONDS,
        "num_cpus": 1,
        "num_gpus": 0,
        "dynamic_stacking": False,
        "ag_args_ensemble": {
            "fold_fitting_strategy": "sequential_local",
            "model_random_seed": 1000 * args.seed,
        },
    }
    predictor.fit(train, tuning_data=val, **chosen)
    rows.write_answers(args.out, predictor.predict_proba(test), description, {**target, **chosen})


if __name__ == "__main__":
    main()

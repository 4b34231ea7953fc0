"""Runs a study: named variants x conditions x seeds as parallel tasks, then tables, tests, figures
and a report that says what is shown."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed.config import describe_settings, find_settings
from distributed.runtime import command, lease, options
from distributed.studies import reading
from distributed.studies.options import StudyOptions


def main(argv: list[str]) -> int:
    chosen = options.read(
        StudyOptions,
        argv,
        prog="ablate.py",
        description=__doc__,
        epilog=help_epilog(),
        find_settings=find_settings,
    )
    if not chosen.plan:  # which writes nothing
        lease.refuse_held(chosen.folder(reading.read_study(chosen.study).name))
    # Ray and plotly take seconds to import, which --help and a refusal need not wait for.
    from distributed.studies.driver import study

    result = study(chosen)
    result.show()
    return 1 if result.failed and not chosen.plan else 0


def help_epilog() -> str:
    """The shipped studies, the format of a study file, and every setting."""
    shipped = "\n".join(
        f"  {name:12} {reading.read_study(name).title}" for name in reading.study_names()
    )
    return (
        f"shipped studies:\n{shipped}\n\nyour own study:\n{reading.__doc__}\n{describe_settings()}"
    )


if __name__ == "__main__":
    command.run(main)

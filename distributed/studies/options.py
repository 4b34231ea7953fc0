"""The options of `study`, declared once for the command line, Python and the documentation."""

from __future__ import annotations

from dataclasses import dataclass

from model.declarations import option, required

QUICK_STUDY_SETTINGS = {"optim.epochs": 4, "data.max_rows": 600}
QUICK_SEEDS = 2
_QUICK_TEXT = ", ".join(f"{name}={value}" for name, value in QUICK_STUDY_SETTINGS.items())


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Which study runs on which data, and where its results go."""

    study: str = required("a shipped study, or a file of your own (below)", "NAME|F.toml")
    data: tuple[str, ...] = option(
        (),
        "folder or URI made by ingest.py; repeat for several data sets",
        metavar="SHARDS",
        repeat=True,
        shown="the built-in wafers",
    )
    seeds: int | None = option(
        None, "seeds 0 to N - 1", low=1, metavar="N", shown="the study's own number, mostly 5"
    )
    out: str | None = option(
        None, "folder or URI of the study", metavar="STUDY", shown="studies/ and its name"
    )
    resume: bool = option(
        False,
        "keep the finished cells in --out and run the rest; "
        "with a larger --seeds it extends a study",
    )
    set: tuple[str, ...] = option(
        (), "settings of every cell (variants and conditions win)", metavar="K=V", shown=""
    )
    variants: str | None = option(
        None, "run only these variants and the reference", metavar="A,B", shown="all"
    )
    conditions: str | None = option(None, "run only these conditions", metavar="A,B", shown="all")
    quick: bool = option(
        False, f"a small run to look at: {_QUICK_TEXT}, {QUICK_SEEDS} seeds", shown=""
    )
    plan: bool = option(False, "print what would run, and run nothing", shown="")

    def folder(self, name: str) -> str:
        """Returns where the results of the study of this name go."""
        return self.out or f"studies/{name}{'-quick' if self.quick else ''}"

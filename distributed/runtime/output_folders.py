"""What each command writes into its folder, so that none writes into a folder of another one."""

from __future__ import annotations

from dataclasses import dataclass

from distributed.runtime.errors import OptionError
from distributed.runtime.storage import PART_SUFFIX, filesystem, list_folder


@dataclass(frozen=True)
class OutputKind:
    """What a command writes.

    title: what it is for the user.
    setup: the file that says what was to be done, without which nothing can go on.
    marks: further files and folders that tell it from other output.
    first: files that are written before `setup`, so that a killed command may leave them alone.
    """

    title: str
    setup: str
    marks: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


RUN = OutputKind(
    "a training run", "config.json", ("history.json", "state", "checkpoint"), ("data.json",)
)
SEARCH = OutputKind("a search", "experiment.json", ("records.jsonl", "study.journal"))
STUDY = OutputKind("a study", "study.json")
SHARDS = OutputKind("a SHARDS folder", "schema.json")
PREDICTIONS = OutputKind("predictions", "summary.json", ("predictions",))
KINDS = (RUN, SEARCH, STUDY, SHARDS, PREDICTIONS)
# Endings of files that a shell or a scheduler writes into the folder, and of unfinished files.
HARMLESS = (".log", ".out", ".err", ".txt", PART_SUFFIX)


def check_output(location: str, kind: OutputKind) -> None:
    """Refuses a folder with files of something else, or with output that lost its setup.

    location: a local folder or a URI, which need not exist.
    """
    names = {entry.base_name for entry in list_folder(*filesystem(location))}
    for other in KINDS:
        own = [name for name in (other.setup, *other.marks) if name in names]
        if own and other is not kind:
            raise OptionError(
                f"out must be a new folder, or one of {kind.title}; {location} holds {own[0]}"
                f" of {other.title}",
                "out",
            )
        if own and other.setup not in names:
            raise OptionError(
                f"out must be new or hold all of {kind.title}; {location} has {own[0]} but no"
                f" {kind.setup}: take another folder, or restore that file",
                "out",
            )
    foreign = sorted(
        name
        for name in names - {*kind.first}
        if not name.startswith(".") and not name.endswith(HARMLESS)
    )
    if foreign and kind.setup not in names:
        raise OptionError(
            f"out must be a new or an empty folder, or one of {kind.title}; {location} holds"
            f" {foreign[0]}",
            "out",
        )

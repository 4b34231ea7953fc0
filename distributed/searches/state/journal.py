"""Optuna's journal file: a full disk or a kill in the middle of a line loses that line only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._file import get_lock_file

from distributed.runtime.storage import DamagedFile, append_lines, remove_cut_line


class WholeLinesJournal(JournalFileBackend):
    """A journal to which lines are appended whole or not at all.

    Optuna's own backend leaves the part of a line that a full disk took, and its next line is glued
    to it: the journal cannot be read from then on.
    """

    def __init__(self, path: str) -> None:
        self._own_lock = JournalFileOpenLock(path)
        super().__init__(path, lock_obj=self._own_lock)
        with get_lock_file(self._own_lock):
            remove_cut_line(path)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with get_lock_file(self._own_lock):
            append_lines(self._file_path, lines.encode())


def open_journal(path: Path) -> JournalStorage:
    """Opens a journal, which is created if there is none; raises DamagedFile for any other file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return JournalStorage(WholeLinesJournal(str(path)))
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        reason = _damaged_line(path) or f"Optuna cannot follow it ({type(error).__name__}: {error})"
        raise DamagedFile(f"{path} is damaged: {reason}; restore it from a copy") from None


def _damaged_line(path: Path) -> str:
    """Says which line is the first that is no JSON object; empty where all of them are."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            whole = isinstance(json.loads(line), dict)
        except ValueError:
            whole = False
        if not whole:
            return f"line {number} is no entry of Optuna's journal"
    return ""

"""Facts about errors: an option is named as its reader typed it, and a full disk is recognised."""

from __future__ import annotations

import errno
import os

from distributed.runtime.command import one_line
from distributed.runtime.errors import (
    Failure,
    OptionError,
    UnreadableData,
    cause_of,
    disk_full,
    full_disk_message,
    unreadable_data,
)


def test_the_command_prints_flags_and_python_prints_names() -> None:
    error = OptionError("resume needs out, the run to continue; got none", "resume", "out")
    assert str(error) == "resume needs out, the run to continue; got none"
    assert one_line(error) == "--resume needs --out, the run to continue; got none"


def test_only_the_option_itself_becomes_a_flag() -> None:
    error = OptionError("out must be new; got without/out: time_out", "out")
    assert one_line(error) == "--out must be new; got without/out: time_out"


def test_an_option_with_its_value_becomes_a_flag_but_a_setting_does_not() -> None:
    error = OptionError("optim.metric is set, so metric=nll must go", "metric")
    assert one_line(error) == "optim.metric is set, so --metric=nll must go"


def test_a_message_of_several_lines_becomes_one() -> None:
    assert one_line(Failure("first\n  second")) == "first second"


def test_the_error_of_a_worker_is_its_cause() -> None:
    cause = OptionError("seed must be at least 0; got -1", "seed")
    around = RuntimeError("task failed")
    around.cause = cause  # type: ignore[attr-defined]  # as RayTaskError has it
    assert cause_of(around) is cause
    assert one_line(around) == "--seed must be at least 0; got -1"
    assert cause_of(cause) is cause


def test_an_error_about_data_is_found_inside_those_of_workers() -> None:
    cause = UnreadableData("'/shards/train/part.parquet' is damaged")
    inner, outer = RuntimeError("task failed"), RuntimeError("the task that waited for it failed")
    inner.cause, outer.cause = cause, inner  # type: ignore[attr-defined]
    for error in (cause, inner, outer):
        assert unreadable_data(error) is cause
    inner.cause = ValueError("a setting is wrong")  # type: ignore[attr-defined]
    assert unreadable_data(outer) is None
    assert unreadable_data(ValueError("a setting is wrong")) is None


def test_a_full_disk_is_recognised_by_number_and_by_text() -> None:
    assert disk_full(OSError(errno.ENOSPC, "x")) == "no space left"
    assert disk_full(RuntimeError(f"Arrow: {os.strerror(errno.ENOSPC)}")) == "no space left"
    assert disk_full(OSError(errno.EACCES, "x")) == ""
    assert disk_full(RuntimeError("something else")) == ""


def test_the_line_of_a_full_disk_names_the_file_wherever_the_error_comes_from() -> None:
    direct = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/out/a.pt")
    wrapped = RuntimeError("a worker has failed")
    wrapped.__cause__ = direct
    as_text = RuntimeError(f"ray::task() failed: {direct!s} (in line 3)")
    for error in (direct, wrapped, as_text):
        assert full_disk_message(error) == "no space left: /out/a.pt"
    sqlite = RuntimeError("(sqlite3.OperationalError) database or disk is full")
    assert full_disk_message(sqlite) == "no space left: nothing more can be written"
    assert full_disk_message(OSError(errno.EACCES, "Permission denied", "/out/a.pt")) == ""

"""Keeps a process with a mutant from harming the machine.

A fault in the code that deletes folders or signals processes may reach any of them. The kernel
(Landlock) lets the process write inside one folder only, and signal no process outside.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # numbers of the system calls
PATH_BENEATH, VERSION_FLAG = 1, 1
PARENT_DEATH_SIGNAL, NO_NEW_PRIVILEGES = 1, 38  # options of prctl
WRITE_FILE = 1 << 1
# Writing, and removing and making every kind of file; from version 2 on moving between folders,
# from 3 on truncating.
CHANGES = WRITE_FILE | sum(1 << bit for bit in range(4, 13))
MOVE, TRUNCATE = 1 << 13, 1 << 14
SIGNALS = 1 << 1  # from version 6 on
MEMORY = 4 << 30  # bytes that a mutant may use beyond those of the process that started it
FILE_SIZE = 1 << 30


def version() -> int:
    """Returns the version of Landlock that this kernel has; 0 where it has none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, _call(CREATE_RULESET, None, 0, VERSION_FLAG))


def enter(folder: Path, cpu_seconds: int) -> None:
    """Restricts this process and its children: changes in the folder only, bounded resources.

    This process ends with the one that started it.
    """
    for limit, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_DATA, MEMORY),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    have = version()
    changes = CHANGES | (MOVE if have >= 2 else 0) | (TRUNCATE if have >= 3 else 0)
    attributes = struct.pack("QQQ", changes, 0, SIGNALS)
    ruleset = _checked(CREATE_RULESET, attributes, len(attributes) if have >= 6 else 8, 0)
    for path, allowed in ((folder, changes), (Path("/dev"), WRITE_FILE)):
        opened = os.open(path, os.O_PATH)
        _checked(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", allowed, opened), 0)
        os.close(opened)
    for option, value in ((PARENT_DEATH_SIGNAL, signal.SIGKILL), (NO_NEW_PRIVILEGES, 1)):
        if ctypes.CDLL(None).prctl(option, value, 0, 0, 0):
            raise OSError("the kernel refuses to restrict this process")
    _checked(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _call(number: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))


def _checked(number: int, *arguments: object) -> int:
    result = _call(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "the kernel refuses to restrict this process")
    return result

"""A lease on an output folder: of several processes that would write into it, one does.

A process asks for the folder by a file of its own and then lists the others. Of two processes, the
one that wrote its file later sees the other's, and one that sees nobody else's holds the folder. A
holder keeps it. Of several processes that ask for a free folder at the same time, the one with the
smallest token stays and waits until the others have withdrawn.

The holder renews its file. A file without renewal is void after LIFETIME, and at once if its
process was one of this machine and has ended. Ages are measured by the storage's clock alone.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from distributed.runtime import signals, storage
from distributed.runtime.errors import Failure
from distributed.runtime.holder import FolderHeld, Holder
from distributed.runtime.lease_files import LeaseFile, LeaseFiles

RENEWAL = 2.0  # seconds between two renewals
LIFETIME = 40.0  # seconds without renewal after which a file is void
# A file is watched for these seconds before it is taken for void: after a pause of the whole
# machine, or a change of its clock, the file of a living process looks old.
WATCH = 5.0
POLL = 0.3  # seconds between two looks at the files of others
PATIENCE = 60.0  # seconds after which a process that has not won gives up
QUIET = 3.0  # seconds of waiting without a word

_leases: set[Lease] = set()  # of this process


@contextmanager
def hold(folder: str, *, beside: bool = False) -> Iterator[None]:
    """Keeps other processes from writing into an output folder or URI during the block.

    Raises FolderHeld where another process holds it. If another process takes the folder over,
    because this one was paused or cut off from its storage for long, the block is interrupted and
    Failure raised. Outside the main thread, which alone can be interrupted, Failure is raised at
    the end of the block.

    beside: the folder is renamed into its place, so nothing must be written into it before.
    """
    lease = Lease(folder, beside=beside)
    with signals.stop_requests():
        try:
            lease.acquire()
            yield
            lease.check()
        except BaseException:
            lease.check()
            raise
        finally:
            lease.release()


def refuse_held(folder: str) -> None:
    """Raises FolderHeld if another process holds a folder or URI, with its file inside or beside.

    It is a first look, before the seconds that a command needs to start; `hold` decides. A holder
    on another machine is known to live when it renews its file, which this waits for.
    """
    folder = storage.absolute_location(folder)
    with suppress(OSError):
        for files in (LeaseFiles(folder), LeaseFiles(folder, beside=True)):
            if holder := _living_holder(files):
                raise _refusal(folder, holder)


def _living_holder(files: LeaseFiles) -> Holder | None:
    """Returns the holder of a folder; None where there is none that shows a sign of life."""
    began = time.monotonic()
    first: dict[str, float] = {}  # when each file had been renewed, as first seen
    while True:
        may_live = False
        for token, file, holder in _holders(files):
            is_running = holder.is_running()
            is_recent = abs(time.time() - file.renewed) < LIFETIME
            if is_recent if is_running else file.renewed > first.setdefault(token, file.renewed):
                return holder
            may_live |= is_running is None
        if not may_live or time.monotonic() - began > RENEWAL + POLL:
            return None
        time.sleep(POLL)


def _holders(files: LeaseFiles) -> Iterator[tuple[str, LeaseFile, Holder]]:
    """Yields the files by which processes hold a folder, with their tokens and processes."""
    for token, file in files.listed().items():
        if file.is_held and (holder := files.holder(file)):
            yield token, file, holder


def is_lost(folder: str) -> bool:
    """Whether another process has taken over the folder that this process held.

    Nothing must be written into it from then on.
    """
    return any(lease.lost for lease in _leases if lease.folder == folder)


def _refusal(folder: str, holder: Holder | None) -> FolderHeld:
    return FolderHeld(
        f"out must be free; {folder} is held by {_name(holder)}: "
        "wait for its end, or take another folder",
        "out",
    )


def _name(holder: Holder | None) -> str:
    return str(holder or "another process")


@dataclass
class Watched:
    """The file of another process, since this one first saw it.

    since: by this process's clock. renewed: by the storage's clock, as first seen.
    """

    since: float
    renewed: float
    holder: Holder | None = None


class Lease:
    """The lease of this process on a folder. lost: why it has ended too early, else empty."""

    def __init__(self, folder: str, *, beside: bool) -> None:
        self.folder = folder
        self.files = LeaseFiles(folder, beside=beside)
        self.watched: dict[str, Watched] = {}  # by token
        self.lost = ""
        in_main = threading.current_thread() is threading.main_thread()
        self.interruptible = threading.get_ident() if in_main else None  # the thread to interrupt
        self.ended = threading.Event()
        self.lock = threading.Lock()  # so that nothing is interrupted after the end
        self.renewing = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(self) -> None:
        """Returns when this process holds the folder; raises FolderHeld if another one does."""
        with storage.as_option_error(self.folder):
            self.files.write()
            self._wait_for_turn()
        _leases.add(self)
        self.renewing.start()

    def release(self) -> None:
        """Gives the folder free, or takes back that this process has asked for it."""
        _leases.discard(self)
        with self.lock:
            self.ended.set()
        if self.renewing.is_alive():
            self.renewing.join(LIFETIME)  # or it might write its file once more
        self.files.withdraw()

    def check(self) -> None:
        """Raises Failure if the lease has ended too early."""
        if self.lost:
            raise Failure(self.lost) from None

    def _wait_for_turn(self) -> None:
        began, is_told = time.monotonic(), False
        while True:
            rivals = self.files.listed()
            own = rivals.pop(self.files.token, None)
            if own and not rivals:
                with suppress(FileNotFoundError):
                    self.files.mark_held()
                    return
            remaining = self._remaining(rivals, own) if own else []
            waited = time.monotonic() - began
            if waited > PATIENCE:
                raise _refusal(self.folder, self._holder(remaining[0]) if remaining else None)
            if remaining and waited > QUIET and not is_told:
                is_told = True
                print(
                    f"note: {self.folder} is held by {_name(self._holder(remaining[0]))}; "
                    "waiting for a sign of life",
                    file=sys.stderr,
                    flush=True,
                )
            if remaining:
                time.sleep(POLL)
            if own:
                self.files.renew()
            else:  # this process was paused for so long that another one has deleted its file
                self.files.write()

    def _remaining(self, rivals: dict[str, LeaseFile], own: LeaseFile) -> list[str]:
        """Deletes the files of ended processes; returns the tokens of those to wait for.

        Raises FolderHeld for a process that goes first. A holder does once it is known to live: a
        job that is started anew on another machine waits until the file of its own first start is
        void. Where one holds the folder and others ask for it, the refusal names the holder.
        """
        remaining = []
        for token, file in sorted(rivals.items(), key=lambda rival: not rival[1].is_held):
            lives = self._lives(token, file, own)
            if lives is False:
                self.files.delete(file)
            elif lives if file.is_held else token < self.files.token:
                raise _refusal(self.folder, self._holder(token))
            else:
                remaining.append(token)
        return remaining

    def _lives(self, token: str, file: LeaseFile, own: LeaseFile) -> bool | None:
        """Whether the process of a file runs; None while that is not known."""
        now = time.monotonic()
        watched = self.watched.setdefault(token, Watched(now, file.renewed))
        watched.holder = watched.holder or self.files.holder(file)
        is_running = watched.holder.is_running() if watched.holder else None
        if is_running is False:
            return False
        if own.renewed - file.renewed >= LIFETIME:
            return False if now - watched.since >= WATCH else None
        return True if is_running or file.renewed > watched.renewed else None

    def _holder(self, token: str) -> Holder | None:
        watched = self.watched.get(token)
        return watched.holder if watched else None

    def _renew(self) -> None:
        """Renews the own file until the end, in a thread of its own.

        As long as the storage fails, the work goes on.
        """
        while not self.ended.wait(RENEWAL):
            with suppress(OSError):
                rivals = self.files.listed()
                own = rivals.pop(self.files.token, None)
                held = [token for token in sorted(rivals) if rivals[token].is_held]
                # There are two holders if this one renewed its file just when it was deleted.
                if own is None or (held and held[0] < self.files.token):
                    self._stop(self.files.holder(rivals[held[0]]) if held else None)
                    return
                self.files.renew()

    def _stop(self, holder: Holder | None) -> None:
        """Interrupts the main thread: another process has taken the folder over."""
        with self.lock:
            if self.ended.is_set():
                return
            by = (
                f"it is held by {holder}"
                if holder
                else f"its file in {self.files.place} was removed"
            )
            self.lost = f"stopped, since this process has lost {self.folder}: {by}"
            if self.interruptible is not None:
                # A real signal, which ends a wait for the operating system too.
                signal.pthread_kill(self.interruptible, signal.SIGINT)

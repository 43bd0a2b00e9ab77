"""The process of a queue: it starts the members of a submission, and stops those that are to stop."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hybrid_patch.runs.failure import DISK_FULL, LOST, cause_of
from launch.sweep import SweepMember, read_submission

POLL = 0.3
"""Seconds between looks at markers, and at slots that others hold."""
PATIENCE_WHEN_FULL, PATIENCE = 30, 3600
"""Seconds to wait for room on a full disk, and for one that fails to come back."""


class QueueProcess:
    def __init__(self, folder: Path) -> None:
        self.submission = read_submission(folder)
        self.forward = signal.SIGTERM
        self.signals: set[int] = set()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._cancelled: set[str] = set()

    def join(self, work: Sequence[Callable[[], None]], signals: Sequence[int] = ()) -> None:
        """Do all the work, a thread each; stop members for their markers, or all for a signal, even an earlier one."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._stop_all)
        for earlier in signals:
            self._stop_all(earlier)
        self._stop_cancelled()
        threads = [threading.Thread(target=each) for each in work]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._stop_cancelled()
            time.sleep(POLL)

    def _stop_all(self, number: int, frame: object = None) -> None:
        """A signal handler: ask every member to save and end."""
        self.signals.add(number)
        for child in list(self._children.values()):
            child.send_signal(self.forward)

    def _stop_cancelled(self) -> None:
        """Ask cancelled members to save and end; only once, since they may already be ending."""
        for member in self.submission.marked("cancelled") - self._cancelled:
            self._cancelled.add(member)
            if child := self._children.get(member):
                child.send_signal(self.forward)

    def stopping(self, member: str) -> bool:
        """Whether a member was asked to stop: it must not be started again."""
        return bool(self.signals) or member in self._cancelled

    def wait(self, member: str, child: subprocess.Popen[bytes]) -> int:
        """Wait for a member's training and return its exit code."""
        self._children[member] = child
        if self.stopping(member):  # a signal that came while it was starting
            child.send_signal(self.forward)
        code = child.wait()
        del self._children[member]
        return code

    def mark_ended(self, member: SweepMember) -> None:
        self.persist(lambda: self.submission.mark("ended", member.id), member.id)

    def persist(self, write: Callable[[], None], member: str) -> OSError | None:
        """Write, if need be again and again until the disk has room, or is back.

        Returns the error that it has given up at; the status is then `stale`, and the member goes back later.
        """
        began, said = time.monotonic(), ""
        while True:
            try:
                write()
                return None
            except OSError as error:
                away = cause_of(error) == LOST
                patience = PATIENCE if away else PATIENCE_WHEN_FULL
                vain = isinstance(error, FileNotFoundError) or (away and self.stopping(member))
                if vain or time.monotonic() - began > patience:
                    return error
                if said != str(error):
                    said = str(error)
                    with suppress(OSError):  # this message goes to a file on the same disk
                        print(f"{error}; trying again", file=sys.stderr, flush=True)
            time.sleep(1)


def disk_error(folder: Path) -> OSError | None:
    """The error of a write into a folder."""
    try:
        write_probe(folder)
    except OSError as error:
        return error
    return None


def write_probe(folder: Path) -> None:
    """Write a file into a folder, down to its disk, and remove it. Raises OSError, but not where the disk is full."""
    file = folder / f".probe.{os.getpid()}.{threading.get_ident()}.part"
    try:
        with file.open("wb") as probe:
            probe.write(b"\n")
            probe.flush()
            os.fsync(probe.fileno())
        file.unlink(missing_ok=True)  # an attempt that begins removes such files
    except OSError as error:
        if cause_of(error) != DISK_FULL:
            raise

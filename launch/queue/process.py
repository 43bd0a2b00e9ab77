"""The process of a queue: it starts the members of a submission, and stops those that are to stop."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from launch.sweep import SweepMember, read_submission

POLL = 0.3
"""Seconds between looks at markers, and at slots that others hold."""
PATIENCE = 30
"""Seconds to wait for room on a full disk."""


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
        retry_when_full(lambda: self.submission.mark("ended", member.id))


def retry_when_full(write: Callable[[], None]) -> None:
    """Write, and retry for a while on a full disk. Gives up silently: the status is then found stale."""
    for _ in range(PATIENCE):
        try:
            write()
            return
        except OSError as error:
            with suppress(OSError):  # this message goes to a file on the same disk
                print(f"{error}; trying again", file=sys.stderr, flush=True)
            time.sleep(1)

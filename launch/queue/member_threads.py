"""What the process of a queue does: its members beside each other, each a process of its own, until all have ended."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.attempts import Stop, retry_when_full
from launch.sweep import SweepMember, read_submission

POLL = 0.3
"""Seconds between looks at markers, and at slots that others hold."""


class MemberThreads:
    """The threads of a queue's process, which start members of a submission and wait for them."""

    def __init__(self, folder: Path) -> None:
        self.submission = read_submission(folder)
        self.members = self.submission.sweep.members()
        self.stop = Stop()

    def join(self, work: Sequence[Callable[[], None]], signals: Sequence[int] = ()) -> None:
        """Do all the work, a thread each, and stop members meanwhile: one for its marker, all of them for a signal.

        Args:
            signals: those that came before.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self.stop.note)
        for earlier in signals:
            self.stop.note(earlier)
        self._read_markers()
        threads = [threading.Thread(target=each) for each in work]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._read_markers()
            time.sleep(POLL)

    def _read_markers(self) -> None:
        for member in self.submission.marked("cancelled"):
            self.stop.cancel(member)

    def mark_ended(self, member: SweepMember) -> None:
        """Tell the queue that it is done with a member."""
        retry_when_full(lambda: self.submission.mark("ended", member.id))

"""Where members run: a queue takes submissions, knows which members it still has, and cancels them."""

from collections.abc import Collection
from typing import Literal, Protocol, runtime_checkable

from hybrid_patch.errors import InputError
from launch.sweep import Submission, Sweep, SweepMember

Live = Literal["waiting", "running"]


class QueueSilentError(InputError):
    """The queue does not answer now."""


@runtime_checkable
class Queue(Protocol):
    """The interface of all queues."""

    def check(self, members: Collection[SweepMember]) -> None:
        """Raises InputError if a member can never run here."""
        ...

    def memory(self) -> int | None:
        """Bytes that a process may take; None: not known."""
        ...

    def submit(self, sweep: Sweep, submission: Submission) -> str:
        """Start a recorded submission, and return at once. Returns a line for the person.

        Raises InputError if the queue cannot be reached.
        """
        ...

    def live(self, sweep: Sweep, submissions: Collection[Submission]) -> dict[str, Live]:
        """The members that the queue still has, by id, as far as it knows."""
        ...

    def verdicts(self, sweep: Sweep, submissions: Collection[Submission]) -> dict[str, str]:
        """What became of members that the queue no longer has, by id, as far as it remembers."""
        ...

    def cancel(self, sweep: Sweep, submission: Submission, members: Collection[str]) -> None:
        """Cancel members: running ones save their state and end, and none is started again."""
        ...

"""Where members run. A queue takes submissions, knows which members it still has, and lets go of them."""

from collections.abc import Collection
from typing import Literal, Protocol, runtime_checkable

from hybrid_patch.errors import InputError
from launch.config import Local
from launch.sweep import Member, Submission, Sweep

Live = Literal["waiting", "running"]


class QueueSilentError(InputError):
    """The queue cannot be asked now."""


@runtime_checkable
class Queue(Protocol):
    """One small interface for all queues."""

    def check(self, members: Collection[Member]) -> None:
        """Raises InputError if a member can never run here."""
        ...

    def memory(self) -> int | None:
        """Bytes that a process may take; None: not known."""
        ...

    def needs_plan(self) -> bool:
        """Whether it takes a member's memory from the plan."""
        ...

    def submit(self, sweep: Sweep, submission: Submission) -> str:
        """Hand over a submission that is written down, and return at once. A line for the person about where to look.

        Raises InputError if the queue cannot be reached.
        """
        ...

    def live(self, sweep: Sweep, submissions: Collection[Submission]) -> dict[str, Live]:
        """The members that the queue still has, by id, as far as it knows."""
        ...

    def verdicts(self, sweep: Sweep, submissions: Collection[Submission]) -> dict[str, str]:
        """What the queue says became of members that it no longer has, by id, as far as it remembers."""
        ...

    def cancel(self, sweep: Sweep, submission: Submission, members: Collection[str]) -> None:
        """Let go of members: those that run save their state and end, and none is started again."""
        ...


def queue_of(cluster: object) -> Queue:
    """The queue of a cluster's settings."""
    if isinstance(cluster, Local):
        from launch.queue.local import LocalQueue

        return LocalQueue(cluster)
    from launch.config import Slurm
    from launch.queue.slurm import SlurmQueue

    assert isinstance(cluster, Slurm)
    return SlurmQueue(cluster)

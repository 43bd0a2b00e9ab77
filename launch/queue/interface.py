"""Where members run: a queue takes submissions, knows which members it still has, and cancels them."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Literal

from hybrid_patch.errors import InputError
from launch.sweep import Submission, SweepMember

Live = Literal["waiting", "running"]


class QueueSilentError(InputError):
    """The queue does not answer now."""


class Queue(ABC):
    """The interface of all queues."""

    @abstractmethod
    def check(self, members: Collection[SweepMember]) -> None:
        """Raises InputError if a member can never run here."""

    @abstractmethod
    def memory(self) -> int | None:
        """Bytes that a process may take; None: not known."""

    @abstractmethod
    def submit(self, submission: Submission) -> str:
        """Start a recorded submission, and return at once. Returns a line for the person.

        Raises InputError if the queue cannot be reached.
        """

    @abstractmethod
    def live(self, submissions: Collection[Submission]) -> dict[str, Live]:
        """The members that the queue still has, by id, as far as it knows."""

    def verdicts(self, submissions: Collection[Submission]) -> dict[str, str]:
        """What became of members that the queue no longer has, where it remembers more than their run directories."""
        return {}

    @abstractmethod
    def cancel(self, submission: Submission, members: Collection[str]) -> None:
        """Cancel members: running ones save their state and end, and none is started again."""

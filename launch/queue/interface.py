"""A queue takes submissions, knows which members it still has, and cancels them."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Literal, NamedTuple

from hybrid_patch.errors import InputError
from launch.sweep import Submission, SweepMember

Live = Literal["waiting", "running"]


class QueueSilentError(InputError):
    """The queue does not answer now."""


class ArrayPreview(NamedTuple):
    """What a queue starts together: its resources by name, as a person reads them, and its script, if there is one."""

    resources: dict[str, str]
    script: str = ""


class Queue(ABC):
    @abstractmethod
    def check(self, members: Collection[SweepMember]) -> None:
        """Raises InputError if a member can never run here."""

    @abstractmethod
    def require(self) -> None:
        """Raises InputError if nothing can be submitted from this machine."""

    @abstractmethod
    def memory(self) -> int | None:
        """Bytes that a process may take; None: not known."""

    @abstractmethod
    def submit(self, submission: Submission) -> str:
        """Start a recorded submission and return a line for the person. Raises InputError if it is out of reach."""

    @abstractmethod
    def preview(self, submission: Submission) -> list[ArrayPreview]:
        """What `submit` would start, also on a machine from which nothing can be submitted."""

    @abstractmethod
    def live(self, submissions: Collection[Submission]) -> dict[str, Live]:
        """The members that the queue still has, by id. Raises QueueSilentError if it does not answer."""

    def verdicts(self, submission: Submission, members: Collection[str]) -> dict[str, str]:
        """What became of a submission's members, where the queue remembers more than their run directories."""
        return {}

    def put_back(self, submission: Submission, members: Collection[str]) -> list[str]:
        """Take those of a submission's members again that the queue itself has lost, within their retries."""
        return []

    @abstractmethod
    def cancel(self, submission: Submission) -> None:
        """Drop members that are marked as cancelled: running ones save their state and end, none is started again."""

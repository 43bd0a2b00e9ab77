"""Words that are left in a submission's folder: files named after members, which no crash and no full disk can tear."""

from pathlib import Path
from typing import Literal

Word = Literal["cancelled", "ended"]
"""cancelled: for the queue, to let go of the member; ended: by the queue, that it has done with it."""


def leave(place: Path, word: Word, member: str) -> None:
    """Leave a word about a member. Raises OSError where there is no room."""
    (place / word).mkdir(exist_ok=True)
    (place / word / member).touch()


def left(place: Path, word: Word) -> set[str]:
    """The members about whom a word was left."""
    return {path.name for path in (place / word).glob("*")}


def let_go(place: Path) -> set[str]:
    """The members that a queue starts no more: it has done with them, or was asked to."""
    return left(place, "cancelled") | left(place, "ended")

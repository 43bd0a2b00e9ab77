"""Marker files in a submission's folder, named after members: creating an empty file is atomic, even on a full disk."""

from pathlib import Path
from typing import Literal

Marker = Literal["cancelled", "ended"]
"""cancelled: asks the queue to drop the member; ended: left by the queue when it is done with the member."""


def mark(folder: Path, marker: Marker, member: str) -> None:
    """Leave a marker for a member. Raises OSError where there is no room."""
    (folder / marker).mkdir(exist_ok=True)
    (folder / marker / member).touch()


def marked(folder: Path, marker: Marker) -> set[str]:
    """The members with a marker."""
    return {path.name for path in (folder / marker).glob("*")}


def released(folder: Path) -> set[str]:
    """The members that a queue will not start any more: it is done with them, or was asked to drop them."""
    return marked(folder, "cancelled") | marked(folder, "ended")

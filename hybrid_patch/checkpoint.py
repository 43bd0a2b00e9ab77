"""Checkpoints: whole or absent, the newest good one found without being named."""

import logging
import pickle
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from hybrid_patch.errors import InputError
from hybrid_patch.files import write_whole

log = logging.getLogger(__name__)

NAME = re.compile(r"step_(\d{9})\.pt")
DAMAGED = (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError)
"""What torch raises for a file of which a part is lost; anything else (no memory, no disk) is no fault of the file."""


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The steps and files in a folder of checkpoints, oldest first."""
    found = ((NAME.fullmatch(path.name), path) for path in folder.glob("step_*.pt"))
    return sorted((int(match[1]), path) for match, path in found if match)


def save(
    folder: Path, step: int, state: dict[str, Any], keep: int, permit: AbstractContextManager[None] | None = None
) -> Path:
    """Write the state after `step` steps, then remove all but the newest `keep` checkpoints.

    Args:
        permit: entered when the file gets its name (`RunDirectory.held`).
    """
    path = folder / f"step_{step:09d}.pt"
    write_whole(path, lambda file: torch.save(state, file), permit)
    for _, old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that can be read, as (step, state on the CPU); None if there is none.

    Weights only: no code is run. A damaged file (a disk that lost a part of it) is said, renamed to `….damaged`, and
    the one before it is taken. Raises InputError if all are damaged: that a run begins anew is for a person to decide.
    """
    found = checkpoints(folder)
    for step, path in reversed(found):
        try:
            return step, torch.load(path, map_location="cpu", weights_only=True)
        except DAMAGED as error:
            log.warning("%s cannot be read (%s), trying the one before it", path, (str(error).splitlines() or [""])[0])
            path.rename(path.with_name(path.name + ".damaged"))
    if found or any(folder.glob("*.damaged")):
        raise InputError(f"{folder}: no checkpoint there can be read; remove the folder to begin the run anew")
    return None

"""Checkpoints: whole or absent, the newest good one found without being named."""

import logging
import pickle
import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_whole

log = logging.getLogger(__name__)

NAME = re.compile(r"step_(\d{9})\.(pt|shards)")
DAMAGED = (RuntimeError, EOFError, ValueError, KeyError, FileNotFoundError, pickle.UnpicklingError)
"""What is raised for a file of which a part is lost; anything else (no memory, no disk) is no fault of the file."""


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The steps and paths in a folder of checkpoints, oldest first: `….pt`, a file; `….shards`, a folder."""
    found = ((NAME.fullmatch(path.name), path) for path in folder.glob("step_*"))
    return sorted((int(match[1]), path) for match, path in found if match)


def path_of(folder: Path, step: int, sharded: bool = False) -> Path:
    """Where the state after so many steps is, as a file or in shards."""
    return folder / f"step_{step:09d}.{'shards' if sharded else 'pt'}"


def save(
    folder: Path, step: int, state: dict[str, Any], keep: int, permit: AbstractContextManager[None] | None = None
) -> Path:
    """Write the state after `step` steps into a file, then remove all but the newest `keep` checkpoints.

    Args:
        permit: entered when the file gets its name (`RunDirectory.held`).
    """
    path = path_of(folder, step)
    write_whole(path, lambda file: torch.save(state, file), permit)
    prune(folder, keep)
    return path


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for _, old in checkpoints(folder)[:-keep]:
        if old.is_dir():
            # Under another name first: half a folder must not look like a checkpoint.
            shutil.rmtree(old.rename(old.with_name(f".{old.name}.part")))
        else:
            old.unlink()


def read(path: Path) -> dict[str, Any]:
    """The state of a checkpoint of either form, whole and on the CPU. No code of the checkpoint's is run.

    Raises one of `DAMAGED` if a part of it is lost.
    """
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)
    from hybrid_patch.runs import sharded_checkpoint

    return sharded_checkpoint.read(path)


def newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that can be read, as (step, state on the CPU); None if there is none.

    A damaged one (a disk that lost a part of it) is said, renamed to `….damaged`, and the one before it is taken.
    Raises InputError if all are damaged: that a run begins anew is for a person to decide.
    """
    found = checkpoints(folder)
    for step, path in reversed(found):
        try:
            return step, read(path)
        except DAMAGED as error:
            log.warning("%s cannot be read (%s), trying the one before it", path, (str(error).splitlines() or [""])[0])
            _set_aside(path)
    if found or any(folder.glob("*.damaged")):
        raise InputError(f"{folder}: no checkpoint there can be read; remove the folder to begin the run anew")
    return None


def _set_aside(path: Path) -> None:
    damaged = path.with_name(f"{path.name}.damaged")
    if damaged.is_dir():  # of the same step, before: a folder does not take the place of another by itself
        shutil.rmtree(damaged)
    path.rename(damaged)

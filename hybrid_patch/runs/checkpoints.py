"""Checkpoints: whole or absent; the newest readable one is found without being named."""

import logging
import pickle
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_whole

log = logging.getLogger(__name__)

NAME = re.compile(r"step_(\d{9})\.(pt|shards)")
DAMAGED = (RuntimeError, EOFError, ValueError, KeyError, FileNotFoundError, pickle.UnpicklingError)
"""Errors that mean part of a checkpoint is lost; any other (no memory, no disk) is not the checkpoint's fault."""


class Checkpoint(NamedTuple):
    """The state on the CPU that was saved after a step, and the file or folder that it was read from."""

    step: int
    state: dict[str, Any]
    path: Path

    def refuse_other_weights(self, part: str, expected: Mapping[str, Tensor]) -> None:
        """Raises InputError if a part's weights have other names or shapes than expected."""
        weights: Mapping[str, Tensor] = self.state[part]
        for name in {**expected, **weights}:
            expected_shape, shape = (str(list(w[name].shape)) if name in w else "absent" for w in (expected, weights))
            if shape != expected_shape:
                raise InputError(
                    f"{self.path}: saved by another version of hybrid_patch ({part}.{name} is {shape} there, "
                    f"{expected_shape} in this version); use that version, or remove {self.path.parent} to begin the "
                    "run anew"
                )


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The steps and paths of a folder's checkpoints, oldest first: `….pt`, a file; `….shards`, a folder."""
    matches = ((NAME.fullmatch(path.name), path) for path in folder.glob("step_*"))
    return sorted((int(match[1]), path) for match, path in matches if match)


def checkpoint_path(folder: Path, step: int, sharded: bool = False) -> Path:
    """The path of the state after `step` steps, as a file or in shards."""
    return folder / f"step_{step:09d}.{'shards' if sharded else 'pt'}"


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], keep_newest: int, permit: AbstractContextManager[None] | None = None
) -> Path:
    """Write the state after `step` steps as a file, then remove all but the newest `keep_newest` checkpoints.

    Args:
        permit: entered when the file gets its name (`RunDirectory.held`).
    """
    path = checkpoint_path(folder, step)
    write_whole(path, lambda file: torch.save(state, file), permit)
    prune_checkpoints(folder, keep_newest)
    return path


def prune_checkpoints(folder: Path, keep_newest: int) -> None:
    """Remove all but the newest checkpoints."""
    for _, old in list_checkpoints(folder)[:-keep_newest]:
        if old.is_dir():
            # Renamed first: half a folder must not look like a checkpoint.
            shutil.rmtree(old.rename(old.with_name(f".{old.name}.part")))
        else:
            old.unlink()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint of either form, whole and on the CPU. Never runs code from the checkpoint.

    Raises one of `DAMAGED` if a part of it is lost.
    """
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)
    from hybrid_patch.runs.sharded_checkpoint import read_sharded

    return read_sharded(path)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest readable checkpoint; None if there is none.

    A damaged one (a disk that lost a part of it) is reported, renamed to `….damaged`, and passed over for the one
    before it. Raises InputError if all are damaged: whether to start the run over is for a person to decide.
    """
    checkpoints = list_checkpoints(folder)
    for step, path in reversed(checkpoints):
        try:
            return Checkpoint(step, read_checkpoint(path), path)
        except DAMAGED as error:
            log.warning("%s cannot be read (%s), trying the one before it", path, (str(error).splitlines() or [""])[0])
            damaged = path.with_name(f"{path.name}.damaged")
            if damaged.is_dir():  # of the same step, before: a folder does not replace another by itself
                shutil.rmtree(damaged)
            path.rename(damaged)
    if checkpoints or any(folder.glob("*.damaged")):
        raise InputError(f"{folder}: no checkpoint there can be read; remove the folder to begin the run anew")
    return None

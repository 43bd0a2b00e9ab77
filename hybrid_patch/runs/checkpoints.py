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
"""Errors of a checkpoint of which a part is lost; any other (no memory) is not its fault."""


class Checkpoint(NamedTuple):
    """The state that was saved after a step, on the CPU, and the file or folder it was read from."""

    step: int
    state: dict[str, Any]
    path: Path

    def refuse_other_weights(self, part: str, expected: Mapping[str, Tensor]) -> None:
        """Raises InputError if a part's weights have other names or shapes than expected."""
        weights: Mapping[str, Tensor] = self.state[part]
        for name in {**expected, **weights}:
            expected_shape, shape = (str(list(w[name].shape)) if name in w else "absent" for w in (expected, weights))
            if shape != expected_shape:
                change = f"({part}.{name} is {shape} there, {expected_shape} in this version)"
                remedy = f"use that version, or remove {self.path.parent} to begin the run anew"
                raise InputError(f"{self.path}: saved by another version of hybrid_patch {change}; {remedy}")


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The steps and paths of a folder's checkpoints, oldest first: `….pt`, a file; `….shards`, a folder."""
    matches = ((NAME.fullmatch(path.name), path) for path in folder.glob("step_*"))
    return sorted((int(match[1]), path) for match, path in matches if match)


def checkpoint_path(folder: Path, step: int, sharded: bool = False) -> Path:
    return folder / f"step_{step:09d}.{'shards' if sharded else 'pt'}"


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], keep_newest: int, permit: AbstractContextManager[None] | None = None
) -> Path:
    """Write the state after `step` steps as a file, named within `permit`; keep only the newest checkpoints."""
    path = checkpoint_path(folder, step)
    write_whole(path, lambda file: torch.save(state, file), permit)
    prune_checkpoints(folder, keep_newest)
    return path


def prune_checkpoints(folder: Path, keep_newest: int) -> None:
    for _, old in list_checkpoints(folder)[:-keep_newest]:
        if old.is_dir():
            shutil.rmtree(old.rename(old.with_name(f".{old.name}.part")))  # half a folder must not look whole
        else:
            old.unlink()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint of either form, on the CPU, without running code from it. Raises one of `DAMAGED`."""
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)
    from hybrid_patch.runs.sharded_checkpoint import read_sharded

    return read_sharded(path)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint; None if there is none. Damaged ones are reported, renamed to `….damaged`, and passed over.

    Raises InputError if all are damaged: whether to begin the run anew is for a person to decide.
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

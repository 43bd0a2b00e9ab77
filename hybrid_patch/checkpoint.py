"""Checkpoints: whole or absent, the newest good one found without being named."""

import logging
import re
from pathlib import Path
from typing import Any

import torch

from hybrid_patch.files import write_whole

log = logging.getLogger(__name__)

NAME = re.compile(r"step_(\d{9})\.pt")


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The steps and files in a folder of checkpoints, oldest first."""
    found = ((NAME.fullmatch(path.name), path) for path in folder.glob("step_*.pt"))
    return sorted((int(match[1]), path) for match, path in found if match)


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state after `step` steps, then remove all but the newest `keep` checkpoints."""
    path = folder / f"step_{step:09d}.pt"
    write_whole(path, lambda file: torch.save(state, file))
    for _, old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def newest(folder: Path, device: torch.device | str = "cpu") -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that can be read, as (step, state); None if there is none. Weights only: no code is run.

    One that cannot be read (a disk that lost a part of it) is said, and the one before it is taken.
    """
    for step, path in reversed(checkpoints(folder)):
        try:
            return step, torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            log.warning("%s cannot be read (%s), trying the one before it", path, str(error).splitlines()[0])
    return None

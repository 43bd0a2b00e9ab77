"""The names of a run's checkpoints; torch reads what is in them (`checkpoints.py`)."""

import re
import shutil
from pathlib import Path

NAME = re.compile(r"step_(\d{9})\.(pt|shards)")


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The steps and paths of a folder's checkpoints, oldest first: `….pt`, a file; `….shards`, a folder."""
    matches = ((NAME.fullmatch(path.name), path) for path in folder.glob("step_*"))
    return sorted((int(match[1]), path) for match, path in matches if match)


def checkpoint_path(folder: Path, step: int, sharded: bool = False) -> Path:
    return folder / f"step_{step:09d}.{'shards' if sharded else 'pt'}"


def checkpoint_parts(path: Path) -> tuple[Path, ...]:
    """The files of a checkpoint of either form."""
    return tuple(sorted(path.iterdir())) if path.is_dir() else (path,)


def prune_checkpoints(folder: Path, keep_newest: int, best: int | None = None) -> None:
    """Remove all but the newest checkpoints, and but that of the best step."""
    for step, old in list_checkpoints(folder)[:-keep_newest]:
        if step != best:
            _remove(old)


def remove_checkpoints_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps."""
    for later, path in list_checkpoints(folder):
        if later > step:
            _remove(path)


def _remove(checkpoint: Path) -> None:
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.part")))  # half must not look whole
    else:
        checkpoint.unlink()

"""A run that goes on from another's state: its newest checkpoint, copied with the metrics up to it."""

import json
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import flush_folder, write_text, write_whole
from hybrid_patch.runs.checkpoint_files import checkpoint_parts, list_checkpoints
from hybrid_patch.runs.directory import CHECKPOINTS, CONFIG, METRICS, RunDirectory
from hybrid_patch.runs.weights_files import files_hash


def newest_state(run: str) -> tuple[int, str]:
    """The step of a run's newest checkpoint, and a hash of its files. Raises InputError if there is none."""
    folder = Path(run)
    if not (folder / CONFIG).is_file():
        reason = "holds no run" if folder.exists() else "there is no such folder"
        begun = "what has begun goes on by hybrid-patch resume DIR"
        raise InputError(f"continue_from={run}: {reason}; give a run's folder ({begun})")
    saved = list_checkpoints(folder / CHECKPOINTS)
    if not saved:
        raise InputError(f"continue_from={run}: the run has no checkpoint yet; wait for one, or name another run")
    step, path = saved[-1]
    try:
        return step, files_hash(checkpoint_parts(path))
    except OSError as error:
        raise InputError(f"continue_from={run}: {error}") from error


def copy_state(run: RunDirectory, source: Path, step: int, checkpoint: str) -> None:
    """Copy the metrics of another run's first steps, then its checkpoint after them, which has this hash.

    Raises InputError if it is gone, or another.
    """
    path = next((path for number, path in list_checkpoints(source / CHECKPOINTS) if number == step), None)
    try:
        same = path is not None and files_hash(checkpoint_parts(path)) == checkpoint
    except FileNotFoundError:
        same = False
    if path is None or not same:
        gone = f"its checkpoint of step {step} is gone, or another now"
        raise InputError(f"continue_from={source}: {gone}; start anew, from its newest one")
    metrics = run.path / METRICS
    rows = [row for row in RunDirectory(source).metrics() if row["step"] <= step]
    if rows and not os.path.lexists(metrics):
        with run.held():
            write_text(metrics, "".join(json.dumps(row) + "\n" for row in rows))
    _copy(path, run.checkpoints, run.held())


def _copy(path: Path, folder: Path, permit: AbstractContextManager[None]) -> None:
    """Copy a checkpoint, a file or a folder of files: whole, or not at all."""
    if path.is_file():
        _copy_file(path, folder / path.name, permit)
        return
    parts = folder / f".{path.name}.{os.getpid()}.part"
    for part in checkpoint_parts(path):
        _copy_file(part, parts / part.name)
    with permit:
        parts.replace(folder / path.name)
    flush_folder(folder)


def _copy_file(path: Path, new: Path, permit: AbstractContextManager[None] | None = None) -> None:
    with path.open("rb") as file:
        write_whole(new, lambda copy: shutil.copyfileobj(file, copy), permit)

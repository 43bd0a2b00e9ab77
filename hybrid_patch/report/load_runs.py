"""Run directories as a report reads them: whatever is there, and what is wrong with the rest."""

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from hybrid_patch.config.frozen import LOADER
from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import CONFIG, EVALUATION, IDENTITY, STATUS, RunDirectory

COLUMNS = (
    *("step", "loss", "step_seconds", "data_seconds", "peak_memory_bytes"),
    *("processing_patch_size", "output_patch_size", "probe_miou"),
)
"""Of metrics.jsonl, what a report needs."""
SILENT_SECONDS = 600.0
"""A run that says `running` but has given no sign for so long is said to have gone silent."""
MARKS = (IDENTITY, CONFIG, STATUS)
"""A folder with one of these is a run's."""

Columns = dict[str, Float[np.ndarray, " steps"]]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on disk.

    Attributes:
        path: its directory.
        state: of `status.json`: queued, running, preempted, done or failed; `missing` if there is no such directory, or
            nothing can be read of it.
        reason: for the state, in words.
        config: resolved; empty if there is none.
        identity: `run.json`: id, recipe, commit, versions, machine; empty if there is none.
        metrics: `COLUMNS` by name, NaN where a line has none.
        evaluation: `evaluation.json`; empty if there is none.
        notes: what could not be read, and why.
    """

    path: Path
    state: str
    reason: str
    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    metrics: Columns
    evaluation: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def seed(self) -> int | None:
        """Of the run; None where neither config nor recipe can be read."""
        seed = self.recipe.get("seed", self.config.get("seed"))
        return seed if isinstance(seed, int) else None

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What can change the result."""
        recipe = self.identity.get("recipe", {})
        return recipe if isinstance(recipe, Mapping) else {}

    @property
    def steps_done(self) -> int:
        """The last step of its metrics."""
        steps = self.metrics["step"]
        return int(steps[-1]) if len(steps) else 0


def find(folders: Sequence[Path]) -> list[Path]:
    """The run directories that some folders are, or hold at any depth.

    Raises InputError for a folder that does not exist or has no run in it.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder; name run directories, or a sweep's folder")
        below = list(_runs_below(folder))
        if not below:
            raise InputError(f"{folder}: no run in it: no folder with run.json, config.yaml or status.json")
        found.update(dict.fromkeys(below))
    return list(found)


def _runs_below(folder: Path) -> Iterable[Path]:
    if any((folder / name).is_file() for name in MARKS):
        yield folder
        return
    for child in sorted(folder.iterdir()):
        own = (child / "manifest.json").is_file()  # a launched sweep's: it holds copies of conf/
        if child.is_dir() and not child.is_symlink() and not child.name.startswith(".") and not own:
            yield from _runs_below(child)


def read(path: Path) -> Run:
    """A run, as far as it can be read."""
    if not path.is_dir():
        return Run(path, "missing", "there is no such directory", {}, {}, columns([]), {})
    notes: list[str] = []
    identity = _json(path / IDENTITY, notes)
    status = _json(path / STATUS, notes)
    evaluation = _json(path / EVALUATION, notes)
    config = _config(path / CONFIG, notes)
    try:
        rows = RunDirectory(path).metrics()
    except (OSError, ValueError) as error:
        notes.append(f"metrics.jsonl: {_line(error)}")
        rows = []
    state, reason = str(status.get("state", "")), str(status.get("reason", ""))
    if not state:
        state, reason = ("queued", "has not begun") if config or identity else ("missing", "nothing in it can be read")
    elif state == "running" and isinstance(status.get("heartbeat"), float | int):
        silent = time.time() - status["heartbeat"]
        if silent > SILENT_SECONDS:
            reason = f"no sign of life for {silent / 3600:.1f} hours"
    metrics = columns(rows)
    expected = status.get("step")
    if state == "done" and isinstance(expected, int) and len(metrics["step"]) < expected:
        notes.append(f"metrics.jsonl: {len(metrics['step'])} whole lines of {expected}")
    return Run(path, state, reason, config, identity, metrics, evaluation, tuple(notes))


def columns(rows: Sequence[Any]) -> Columns:
    """Lines of the metrics as arrays; lines that are none are left out."""
    whole = [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]
    return {name: np.array([_number(row.get(name)) for row in whole], float) for name in COLUMNS}


def _number(value: object) -> float:
    return float(value) if isinstance(value, float | int) else np.nan


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    """A file's object; empty, and a note, if it is none. A file that is not there is no note's worth."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        notes.append(f"{path.name}: {_line(error)}")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.name}: not an object")
        return {}
    return value


def _config(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = yaml.load(path.read_text(), LOADER)
    except (OSError, ValueError, yaml.YAMLError) as error:
        notes.append(f"{path.name}: {_line(error)}")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.name}: not a config")
        return {}
    return {str(key): item for key, item in value.items()}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

"""Read run directories, however incomplete: what is there, and notes on what cannot be read."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from hybrid_patch.config.compose import LOADER
from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import CONFIG, EVALUATION, IDENTITY, METRICS, STATUS, RunDirectory
from hybrid_patch.runs.sweep_manifest import MANIFEST, planned_runs

COLUMNS = (
    *("step", "loss", "step_seconds", "data_seconds", "peak_memory_bytes"),
    *("processing_patch_size", "output_patch_size", "probe_miou"),
)
"""What a report reads of metrics.jsonl."""
SILENT_SECONDS = 600.0  # from this age of its last heartbeat on, a running run is reported as silent
RUN_FILES = (IDENTITY, CONFIG, STATUS)  # a folder with one of these is a run directory

Columns = dict[str, Float[np.ndarray, " steps"]]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on disk: its files' content, empty where there is none.

    Attributes:
        state: queued, running, preempted, done or failed; `missing` if nothing can be read.
        identity: `run.json`: id, recipe, commit, versions, machine.
        metrics: `COLUMNS` by name, NaN where a line has none.
    """

    path: Path
    state: str = "missing"
    reason: str = "there is no such directory"
    attempt: int | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Columns = dataclasses.field(default_factory=lambda: columns([]))
    last_metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def seed(self) -> int | None:
        seed = self.recipe.get("seed", self.config.get("seed"))
        return seed if isinstance(seed, int) else None

    @property
    def recipe(self) -> Mapping[str, Any]:
        recipe = self.identity.get("recipe")
        return recipe if isinstance(recipe, Mapping) else {}

    @property
    def steps_done(self) -> int:
        return int(self.metrics["step"][-1]) if len(self.metrics["step"]) else 0


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run directories in folders, at any depth, and those that so far only a sweep's manifest names. Raises
    InputError for a folder without any."""
    paths: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder; name run directories, or a sweep's folder")
        runs = [*_runs_below(folder), *(run.path for run in planned_runs(folder))]
        if not runs:
            raise InputError(f"{folder}: no run in it: no folder with {', '.join(RUN_FILES[:-1])} or {RUN_FILES[-1]}")
        paths.update(dict.fromkeys(runs))
    return list(paths)


def _runs_below(folder: Path) -> Iterable[Path]:
    if any((folder / name).is_file() for name in RUN_FILES):
        yield folder
        return
    for child in sorted(folder.iterdir()):
        of_sweep = (child / MANIFEST.name).is_file()  # a submitted sweep's own files: it holds copies of conf/
        if child.is_dir() and not child.is_symlink() and not child.name.startswith(".") and not of_sweep:
            yield from _runs_below(child)


def load_run(path: Path) -> Run:
    if not path.is_dir():
        return Run(path)
    notes: list[str] = []
    identity, status, evaluation = (_mapping(path / name, json.loads, notes) for name in (IDENTITY, STATUS, EVALUATION))
    config = _mapping(path / CONFIG, lambda text: yaml.load(text, LOADER), notes)
    try:
        rows = RunDirectory(path).metrics()
    except (OSError, ValueError) as error:
        notes.append(f"{METRICS}: {one_line(error)}")
        rows = []
    state, reason = str(status.get("state", "")), str(status.get("reason", ""))
    if not state:
        state, reason = ("queued", "has not begun") if config or identity else ("missing", "nothing in it can be read")
    elif state == "running" and isinstance(status.get("heartbeat"), float | int):
        silent = time.time() - status["heartbeat"]
        if silent > SILENT_SECONDS:
            reason = f"no sign of life for {silent / 3600:.1f} hours"
    metrics, expected = columns(rows), status.get("step")
    if state == "done" and isinstance(expected, int) and len(metrics["step"]) < expected:
        notes.append(f"{METRICS}: {len(metrics['step'])} whole lines of {expected}")
    last = rows[-1] if rows else {}
    return Run(path, state, reason, status.get("attempt"), config, identity, metrics, last, evaluation, tuple(notes))


def columns(rows: Sequence[Any]) -> Columns:
    """Lines of the metrics as arrays; lines without a step are left out."""
    steps = [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]
    values = {
        name: [row[name] if isinstance(row.get(name), float | int) else np.nan for row in steps] for name in COLUMNS
    }
    return {name: np.array(numbers, float) for name, numbers in values.items()}


def _mapping(path: Path, parse: Callable[[str], Any], notes: list[str]) -> dict[str, Any]:
    """A file's object; empty without one, and with a note if it cannot be read."""
    if not path.exists():
        return {}
    try:
        value = parse(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, yaml.YAMLError) as error:
        notes.append(f"{path.name}: {one_line(error)}")
        return {}
    return {str(key): item for key, item in value.items()}


def nested(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def one_line(error: Exception) -> str:
    """An error's message, in at most 200 characters."""
    return " ".join(str(error).split())[:200]

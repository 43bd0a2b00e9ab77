"""Read run directories, however incomplete: what is there, and notes on what cannot be read."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import CONFIG, IDENTITY, METRICS, STATUS, Row, RunDirectory, Status
from hybrid_patch.runs.records import DamagedFileError, read_yaml
from hybrid_patch.runs.sweep_manifest import MANIFEST, planned_runs

COLUMNS = (
    *("step", "loss", "step_seconds", "data_seconds", "peak_memory_bytes"),
    *("processing_patch_size", "output_patch_size", "probe_miou"),
)
"""What a report reads of metrics.jsonl."""
SILENT_SECONDS = 600.0  # from this age of its last heartbeat on, a running run is reported as silent
RUN_FILES = (IDENTITY, CONFIG, STATUS)  # a folder with one of these is a run directory

T = TypeVar("T")
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
    run = RunDirectory(path)
    nothing: Row = {}
    identity = _whole(run.identity, nothing, notes) if run.exists() else nothing
    status = _whole(run.status, Status(), notes)
    evaluation = _whole(run.evaluated, nothing, notes)
    config = _whole(lambda: read_yaml(path / CONFIG), None, notes) or {}
    rows = _whole(run.metrics, list[Row](), notes)
    state: str
    state, reason = status.state, status.reason
    if not state:
        state, reason = ("queued", "has not begun") if config or identity else ("missing", "nothing in it can be read")
    elif state == "running":
        silent = time.time() - status.heartbeat
        if silent > SILENT_SECONDS:
            reason = f"no sign of life for {silent / 3600:.1f} hours"
    metrics = columns(rows)
    if state == "done" and len(metrics["step"]) < status.step:
        notes.append(f"{METRICS}: {len(metrics['step'])} whole lines of {status.step}")
    last = rows[-1] if rows else {}
    return Run(path, state, reason, status.attempt or None, config, identity, metrics, last, evaluation, tuple(notes))


def columns(rows: Sequence[Row]) -> Columns:
    """Lines of the metrics as arrays."""
    values = {name: [row[name] if row.get(name) is not None else np.nan for row in rows] for name in COLUMNS}
    return {name: np.array(numbers, float) for name, numbers in values.items()}


def _whole(read: Callable[[], T], without: T, notes: list[str]) -> T:
    """What a file holds; `without` it, and a note, if it cannot be read."""
    try:
        return read()
    except DamagedFileError as error:
        notes.append(f"{error.path.name}: {error.why}")
    except OSError as error:
        notes.append(one_line(error))
    return without


def nested(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def one_line(error: Exception) -> str:
    """An error's message, in at most 200 characters."""
    return " ".join(str(error).split())[:200]

"""Read run directories, however incomplete: what is there, and which of their files are damaged."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from hybrid_patch.config.compose import held_to
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sources import Sources
from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import AVERAGED, CONFIG, IDENTITY, METRICS, STATUS, Row, RunDirectory, Status
from hybrid_patch.runs.records import DamagedFileError, read_yaml
from hybrid_patch.runs.sweep_manifest import MANIFEST, planned_runs

COLUMNS = (
    *("step", "loss", "step_seconds", "data_seconds", "peak_memory_bytes"),
    *("processing_patch_size", "output_patch_size", "probe_miou", "knn_miou", AVERAGED),
)
"""What a report reads of metrics.jsonl."""
SMALLEST, LARGEST = 1e-30, 1e30
SILENT_SECONDS = 600.0  # from this age of its last heartbeat on, a running run is reported as silent
RUN_FILES = (IDENTITY, CONFIG, STATUS)  # a folder with one of these is a run directory

S = TypeVar("S")
T = TypeVar("T")
Columns = dict[str, Float[np.ndarray, " steps"]]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on disk: its files' content, empty where there is none.

    Attributes:
        state: queued, running, stopped (cancelled or preempted), done or failed; `damaged` if its status cannot be
            read; `missing` if there is nothing to read.
        identity: `run.json`: id, recipe, commit, versions, machine.
        heartbeat: its last sign of life, in seconds since 1970; 0 without any.
        metrics: `COLUMNS` by name, NaN where a line has none, but AVERAGED, which is 1 there.
        damage: `FILE, why` of each file that cannot be read, or not all of it.
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
    damage: tuple[str, ...] = ()
    heartbeat: float = 0.0

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
        if not os.path.isdir(folder):
            raise InputError(f"{folder}: there is no such folder; name run directories, or a sweep's folder")
        runs = [*_runs_below(folder), *(run.path for run in planned_runs(folder))]
        if not runs:
            raise InputError(f"{folder}: no run in it: no folder with {', '.join(RUN_FILES[:-1])} or {RUN_FILES[-1]}")
        paths.update(dict.fromkeys(runs))
    return list(paths)


def _runs_below(folder: Path) -> Iterator[Path]:
    folders = [folder]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                children = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except OSError:
            if os.path.isdir(folder):
                yield folder  # whether it is a run, nobody can say
            continue
        if not children.keys().isdisjoint(RUN_FILES):
            yield folder
        elif MANIFEST.name not in children:  # a submitted sweep's own files: it holds copies of conf/
            below = (name for name, is_folder in children.items() if is_folder and not name.startswith("."))
            folders += (folder / name for name in sorted(below, reverse=True))


def is_run(folder: Path) -> bool:
    return any(os.path.lexists(folder / name) for name in RUN_FILES)


def load_run(path: Path) -> Run:
    if not os.path.isdir(path):
        return Run(path)
    damage: list[str] = []
    run = RunDirectory(path)
    nothing: Row = {}
    status = whole(path / STATUS, run.status, damage, None)
    if status is None:
        state, reason, status = "damaged", damage[0], Status()
    else:
        state, reason = "stopped" if status.state == "preempted" else status.state, status.reason
    begun = state not in ("", "queued") or os.path.lexists(path / IDENTITY)
    identity = whole(path / IDENTITY, run.identity, damage, nothing) if begun else nothing
    evaluation = whole(run.evaluation, run.evaluated, damage, nothing)
    config = whole(run.config, lambda: read_yaml(run.config), damage, nothing) or nothing
    try:
        if config:
            held_to(Config, config, Sources())
    except InputError as error:  # of another version, or torn: what it has counts
        damage.append(f"{run.config}, {one_line(error)}")
    rows = whole(path / METRICS, run.metrics, damage, list[Row]())
    if not state:
        state, reason = ("queued", "has not begun") if config or identity else ("missing", "nothing in it can be read")
    elif state == "running":
        silent = time.time() - status.heartbeat
        if silent > SILENT_SECONDS:
            reason = f"no sign of life for {silent / 3600:.1f} hours"
    metrics, last = columns(rows), rows[-1] if rows else nothing
    expected = status.step if state == "done" else last.get("step", 0)
    if (steps := int(metrics[AVERAGED].sum())) < expected:
        damage.append(f"{path / METRICS}, {steps} whole lines of {expected}")
    files = (config, identity, metrics, last, evaluation)
    return Run(path, state, reason, status.attempt or None, *files, tuple(damage), status.heartbeat)


def columns(rows: Sequence[Row]) -> Columns:
    """Lines of the metrics as arrays; numbers that no figure has room for are NaN."""
    values: Columns = {}
    for name in COLUMNS:
        numbers = np.array([np.nan if row.get(name) is None else row[name] for row in rows], float)
        size = np.abs(numbers)
        values[name] = np.where((size > SMALLEST) & (size < LARGEST) | (size == 0), numbers, np.nan)
    values[AVERAGED] = np.nan_to_num(values[AVERAGED], nan=1.0)
    return values


def whole(path: Path, read: Callable[[], T], damage: list[str], otherwise: S) -> T | S:
    """What `read` makes of a file; `otherwise`, and a line more of `damage`, if it cannot be read."""
    try:
        return read()
    except DamagedFileError as error:
        damage.append(f"{path}, {error.why}")
    except OSError as error:
        damage.append(f"{path}, {error.strerror}")
    return otherwise


def nested(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def one_line(error: Exception) -> str:
    """An error's message, in at most 200 characters."""
    return " ".join(str(error).split())[:200]

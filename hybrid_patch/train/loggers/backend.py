"""What every metric logger does, and the names that it gives to metrics."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_patch.runs.directory import EVALUATED, RunDirectory

PERFORMANCE = ("step_seconds", "data_seconds", "peak_memory_bytes", EVALUATED)
"""Metrics that say what a step or an evaluation took."""
LAST_OF_STEP = "peak_memory_bytes"
"""The last of a step's metrics in its row; evaluations add theirs behind it."""


@dataclasses.dataclass(frozen=True)
class LoggedRun:
    """The run whose metrics are logged.

    Attributes:
        id: its run id, or the name of its directory.
        sweep: the name of its sweep.
        config: its plain config.
        step: the last step that was logged before; 0 for a run that begins.
    """

    directory: RunDirectory
    id: str
    sweep: str
    config: Mapping[str, Any]
    step: int


class Backend(ABC):
    """Where metrics go. Any method may raise whatever its library raises."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        """Log the metrics of a step by their prefixed names; steps come in order."""

    @abstractmethod
    def log_pictures(self, step: int, paths: Sequence[Path]) -> None:
        """Log PNG files after a step, by file name, where the backend has pictures."""

    @abstractmethod
    def close(self) -> str:
        """Write what is left. Returns a line for the person about what to do next; empty if there is nothing."""


def prefixed(row: Mapping[str, Any]) -> dict[str, float | int]:
    """The metrics of a row of `metrics.jsonl` that have a value, under `train/`, `eval/` and `perf/`."""
    return {name: value for name, value in _named(row) if value is not None}


def _named(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    group = "train" if LAST_OF_STEP in row else "eval"  # without it, the row's own metrics are lost
    for name, value in row.items():
        if name in PERFORMANCE:
            yield f"perf/{name}", value
        elif name != "step":
            yield f"{group}/{name}", value
        if name == LAST_OF_STEP:
            group = "eval"

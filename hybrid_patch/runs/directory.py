"""A run on disk: what it is, its state, and what it measured."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hybrid_patch.runs.atomic_files import whole_rows, write_json, write_text
from hybrid_patch.runs.lock import HEARTBEAT_SECONDS, LOCK_FILES, LockedFolder, LostLockError

CONFIG = "config.yaml"
"""The resolved config."""
IDENTITY = "run.json"
"""Id, recipe, commit, versions and machine."""
STATUS = "status.json"
METRICS = "metrics.jsonl"
"""A line per step."""
EVALUATION = "evaluation.json"
LOG = "log.txt"
OUTPUT = "output.txt"
"""All that a submitted run printed."""
ATTEMPTS = "attempts.jsonl"
"""Of a submitted run, a line per attempt that did not finish it."""
CHECKPOINTS = "checkpoints"
PICTURES = "pictures"
FILES = {CONFIG, IDENTITY, STATUS, METRICS, EVALUATION, LOG, OUTPUT, ATTEMPTS, CHECKPOINTS, PICTURES, *LOCK_FILES}

log = logging.getLogger(__name__)


class RunDirectory(LockedFolder):
    """The files of one run. After `lock`, writes raise LostLockError once another attempt has taken the run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.config = path / CONFIG
        self.evaluation = path / EVALUATION
        self.log = path / LOG
        self.output = path / OUTPUT
        self.attempts = path / ATTEMPTS
        self.checkpoints = path / CHECKPOINTS
        self.pictures = path / PICTURES
        self._metrics = path / METRICS
        self._identity = path / IDENTITY
        self._status = path / STATUS
        self._step = 0

    def exists(self) -> bool:
        return self._identity.exists()

    def foreign_files(self) -> list[str]:
        """Names of up to three files in the directory that no run writes."""
        names = sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []
        return [name for name in names if name not in FILES and not name.endswith(".part")][:3]

    def identity(self) -> dict[str, Any]:
        return json.loads(self._identity.read_text())

    def recipe(self) -> dict[str, Any]:
        return self.identity()["recipe"]

    def lock(self) -> None:
        """Keep other attempts out until `unlock` or this process's end. Raises InputError if one is at work."""
        self.acquire(self.status().get("heartbeat", 0.0))

    def begin(self, config_yaml: str, identity: dict[str, Any], flush: bool = True) -> None:
        """Write what never changes: the config, and the identity with its `provenance`."""
        with self.held():
            write_text(self.config, config_yaml, flush)
            write_json(self._identity, identity, flush)

    def describe_data(self, description: dict[str, Any]) -> None:
        """Add what the data are to the identity."""
        with self.held():
            write_json(self._identity, {**self.identity(), "data": description})

    def status(self) -> dict[str, Any]:
        """The content of `status.json`; empty if the run has not begun."""
        try:
            return json.loads(self._status.read_text())
        except FileNotFoundError:
            return {}

    def set_status(self, state: str, reason: str = "", **more: int | str) -> None:
        """Write `status.json`: the state (queued, running, preempted, done, failed) and what else has changed."""
        now = {"state": state, "reason": reason, "heartbeat": time.time()}
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        with self.held():
            before = {key: value for key, value in self.status().items() if key not in ("cause", "frame")}
            write_json(self._status, {"attempt": 1, "step": 0, **before, **more, **now, **who})

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Report inside the block that the run is alive, however long a step or an evaluation takes."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                try:
                    with self.held():
                        status = self.status()
                        if status.get("state") == "running":
                            step = max(status["step"], self._step)
                            write_json(self._status, status | {"heartbeat": time.time(), "step": step})
                except LostLockError:
                    return  # the run itself ends at its next write
                except OSError as error:
                    log.warning("no heartbeat could be written: %s", error)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def truncate_metrics(self, steps: int) -> int:
        """Drop the metrics after the first `steps` steps, and torn lines. Returns the number of lines left."""
        with self.held():
            rows = [row for row in self.metrics() if row["step"] <= steps]
            if self._metrics.exists():
                write_text(self._metrics, "".join(json.dumps(row) + "\n" for row in rows))
        return len(rows)

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append a line, whose step the next heartbeat reports."""
        with self.held(), self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._step = row["step"]

    def flush_metrics(self) -> None:
        with self._metrics.open("a") as file:
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """The metrics of all steps, oldest first."""
        return whole_rows(self._metrics)

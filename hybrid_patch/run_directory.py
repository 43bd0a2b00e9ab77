"""A run on disk: what it is, how it stands, and what it measured."""

import fcntl
import json
import os
import platform
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from hybrid_patch.errors import InputError
from hybrid_patch.files import write_json, write_text

HEARTBEAT_SECONDS = 10.0


class RunDirectory:
    """The files of one run.

    `config.yaml` resolved · `run.json` id, recipe, commit, versions, machine · `status.json` how it stands ·
    `metrics.jsonl` a line per step · `checkpoints/` · `evaluation.json` · `pictures/` · `log.txt`
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.pictures = path / "pictures"
        self.log = path / "log.txt"
        self.evaluation = path / "evaluation.json"
        self._metrics = path / "metrics.jsonl"
        self._run = path / "run.json"
        self._status = path / "status.json"
        self._lock: TextIO | None = None
        self._last_heartbeat = 0.0

    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self._run.exists()

    def foreign(self) -> list[str]:
        """Names of a few files in the directory that no run writes."""
        files = (self.checkpoints, self.pictures, self.log, self.evaluation, self._metrics, self._run, self._status)
        own = {".lock", "config.yaml", *(path.name for path in files)}
        names = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        return [name for name in names if name not in own and not name.endswith(".part")][:3]

    def recipe(self) -> dict[str, Any]:
        """The recipe that the run here was begun with."""
        return json.loads(self._run.read_text())["recipe"]

    def lock(self) -> None:
        """Keep other processes from writing here until this one ends.

        Raises InputError if one does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / ".lock").open("a+")
        try:
            # Of this process alone: a lock that workers inherit would outlive it when it is killed.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            status = self.status()
            who = f" (host {status['host']}, process {status['pid']})" if status else ""
            raise InputError(f"run_dir={self.path}: another process is at work on this run{who}; wait for it") from None

    def begin(self, config_yaml: str, run: dict[str, Any]) -> None:
        """Write what does not change: the config, and the run's identity beside commit, versions and machine."""
        write_text(self.path / "config.yaml", config_yaml)
        write_json(self._run, {**run, **provenance()})

    def status(self) -> dict[str, Any]:
        """How the run stands; empty if it has not begun."""
        return json.loads(self._status.read_text()) if self._status.exists() else {}

    def set_status(self, state: str, reason: str = "", **position: int) -> None:
        """Write `status.json`: state is running, preempted, done or failed.

        Args:
            position: `attempt`, `step` and `steps`, where they have changed.
        """
        self._last_heartbeat = time.monotonic()
        now = {"state": state, "reason": reason, "heartbeat": time.time()}
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        write_json(self._status, {"attempt": 1, "step": 0, **self.status(), **position, **now, **who})

    def heartbeat(self, step: int) -> None:
        """Say that the run is alive, if it has not been said for a while."""
        if time.monotonic() - self._last_heartbeat > HEARTBEAT_SECONDS:
            self.set_status("running", step=step)

    def keep_metrics(self, steps: int) -> int:
        """Drop the metrics after the first `steps` steps, and a torn last line; returns how many lines are kept."""
        kept = [row for row in self.metrics() if row["step"] <= steps]
        if self._metrics.exists():
            write_text(self._metrics, "".join(json.dumps(row) + "\n" for row in kept))
        return len(kept)

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append one line."""
        with self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def flush_metrics(self) -> None:
        """Get the lines so far onto the disk."""
        with self._metrics.open("a") as file:
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines, oldest first; a torn last one is left out."""
        rows = []
        for line in self._metrics.read_text().splitlines() if self._metrics.exists() else []:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if not isinstance(row, dict):  # the beginning of a number is a number
                break
            rows.append(row)
        return rows


def provenance() -> dict[str, Any]:
    """Commit, versions and machine, for the record."""
    packages = ("hybrid_patch", "torch", "numpy", "lightning-fabric", "hydra-core")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages if _installed(name)},
        "machine": {"host": socket.gethostname(), "cpus": os.cpu_count(), "platform": platform.platform()},
        "began": time.time(),
    }


def _git(*words: str) -> str | None:
    """What git says of the checkout that this package lies in; None outside one (an installed wheel)."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True

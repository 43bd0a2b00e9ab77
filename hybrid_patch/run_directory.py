"""A run on disk: what it is, how it stands, and what it measured."""

import json
import os
import platform
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

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
        self._last_heartbeat = 0.0

    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self._run.exists()

    def recipe(self) -> dict[str, Any]:
        """The recipe that the run here was begun with."""
        return json.loads(self._run.read_text())["recipe"]

    def begin(self, config_yaml: str, run: dict[str, Any]) -> None:
        """Write what does not change: the config, and the run's identity beside commit, versions and machine."""
        write_text(self.path / "config.yaml", config_yaml)
        write_json(self._run, {**run, **provenance()})

    def status(self) -> dict[str, Any]:
        """How the run stands; empty if it has not begun."""
        return json.loads(self._status.read_text()) if self._status.exists() else {}

    def set_status(self, state: str, step: int, steps: int, attempt: int, reason: str = "") -> None:
        """Write `status.json`: state is running, preempted, done or failed."""
        self._last_heartbeat = time.monotonic()
        write_json(
            self._status,
            {
                "state": state,
                "attempt": attempt,
                "step": step,
                "steps": steps,
                "heartbeat": time.time(),
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "reason": reason,
            },
        )

    def heartbeat(self, step: int, steps: int, attempt: int) -> None:
        """Say that the run is alive, if it has not been said for a while."""
        if time.monotonic() - self._last_heartbeat > HEARTBEAT_SECONDS:
            self.set_status("running", step, steps, attempt)

    def keep_metrics(self, steps: int) -> None:
        """Drop the metrics after the first `steps` steps, and a torn last line: a resumed run writes them again."""
        if not self._metrics.exists():
            return
        kept = []
        for line in self._metrics.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if row["step"] <= steps:
                kept.append(line + "\n")
        write_text(self._metrics, "".join(kept))

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append one line."""
        with self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines, oldest first."""
        return [json.loads(line) for line in self._metrics.read_text().splitlines()]


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

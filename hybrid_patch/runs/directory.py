"""A run on disk: what it is, how it stands, and what it measured."""

import json
import logging
import os
import platform
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from hybrid_patch.runs.atomic_files import write_json, write_text
from hybrid_patch.runs.lock import HEARTBEAT_SECONDS, LostLockError, RunLock

SNAPSHOT = "snapshot.json"
"""In a copy of the code that a sweep runs from: the commit it was made of."""

log = logging.getLogger(__name__)


class RunDirectory:
    """The files of one run.

    `config.yaml` resolved · `run.json` id, recipe, commit, versions, machine · `status.json` how it stands ·
    `metrics.jsonl` a line per step · `checkpoints/` · `evaluation.json` · `pictures/` · `log.txt`; of a run that was
    submitted, also `output.txt`, all that its processes said, and `attempts.jsonl`, a line for each that has ended

    Once the lock is taken, every write is refused with LostLockError if another attempt has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.pictures = path / "pictures"
        self.log = path / "log.txt"
        self.evaluation = path / "evaluation.json"
        self.config = path / "config.yaml"
        self.output = path / "output.txt"
        self.attempts = path / "attempts.jsonl"
        self._metrics = path / "metrics.jsonl"
        self._run = path / "run.json"
        self._status = path / "status.json"
        self._lock = RunLock(path)
        self._step: int | None = None

    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self._run.exists()

    def foreign(self) -> list[str]:
        """Names of a few files in the directory that no run writes."""
        files = (self.checkpoints, self.pictures, self.log, self.evaluation, self._metrics, self._run, self._status)
        own = {path.name for path in (*files, self.config, self.output, self.attempts)} | {".lock", "lock.json"}
        names = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        return [name for name in names if name not in own and not name.endswith(".part")][:3]

    def identity(self) -> dict[str, Any]:
        """What `run.json` says: id, recipe, commit, versions, machine."""
        return json.loads(self._run.read_text())

    def recipe(self) -> dict[str, Any]:
        """The recipe that the run here was begun with."""
        return self.identity()["recipe"]

    def lock(self) -> None:
        """Keep other attempts from writing here until `unlock`, or until this process ends.

        Raises InputError if one is at work.
        """
        self._lock.take(self.status().get("heartbeat", 0.0))

    def unlock(self) -> None:
        """Let others write here."""
        self._lock.release()

    def held(self) -> AbstractContextManager[None]:
        """Around a write to one of the run's files. Raises LostLockError if another attempt has the lock."""
        return self._lock.held()

    def holder(self) -> dict[str, Any]:
        """Who holds the lock; empty if nobody does."""
        return self._lock.holder()

    def begin(self, config_yaml: str, run: dict[str, Any], flush: bool = True) -> None:
        """Write what does not change: the config, and the run's identity beside its `provenance`."""
        with self.held():
            write_text(self.config, config_yaml, flush)
            write_json(self._run, run, flush)

    def status(self) -> dict[str, Any]:
        """How the run stands; empty if it has not begun."""
        try:
            return json.loads(self._status.read_text())
        except FileNotFoundError:
            return {}

    def set_status(self, state: str, reason: str = "", **more: int | str) -> None:
        """Write `status.json`: state is queued, running, preempted, done or failed.

        Args:
            more: `attempt`, `step` and `steps`, where they have changed; of a failure its `cause` and `frame`.
        """
        now = {"state": state, "reason": reason, "heartbeat": time.time()}
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        with self.held():
            before = {key: value for key, value in self.status().items() if key not in ("cause", "frame")}
            write_json(self._status, {"attempt": 1, "step": 0, **before, **more, **now, **who})

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Say inside the block, again and again, that the run is alive, however long a step or an evaluation takes."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                try:
                    with self.held():
                        status = self.status()
                        if status.get("state") == "running":
                            step = status["step"] if self._step is None else self._step
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

    def keep_metrics(self, steps: int) -> int:
        """Drop the metrics after the first `steps` steps, and a torn last line; returns how many lines are kept."""
        with self.held():
            kept = [row for row in self.metrics() if row["step"] <= steps]
            if self._metrics.exists():
                write_text(self._metrics, "".join(json.dumps(row) + "\n" for row in kept))
        return len(kept)

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append one line. The next heartbeat says how far the run is."""
        with self.held(), self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._step = row["step"]

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
        **_code(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages if _installed(name)},
        "machine": {"host": socket.gethostname(), "cpus": os.cpu_count(), "platform": platform.platform()},
        "began": time.time(),
    }


def _code() -> dict[str, Any]:
    """The commit of the code that runs here, and whether it was changed since; a snapshot knows its own."""
    snapshot = Path(__file__).parents[2] / SNAPSHOT
    if snapshot.exists():
        return json.loads(snapshot.read_text())
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"commit": None, "dirty": False}  # installed, perhaps inside the checkout of another project
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
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

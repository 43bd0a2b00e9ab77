"""Who may write to a run's directory: one attempt at a time, named in `lock.json`.

A lock of the operating system alone does not do: it knows nothing of other machines, and a process that its scheduler
has lost (an orphan) would keep it. So the attempt is named in a file with its host and job, and whoever writes looks
there first, under a lock of the operating system that is held for as long as the write takes. An attempt that a later
one of the same job has replaced finds another's name there, and ends.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_json

HEARTBEAT_SECONDS = 10.0
"""Between heartbeats of a run at work."""
STALE_SECONDS = 90.0
"""Without a heartbeat after which an attempt on another machine counts as dead."""
PATIENCE_SECONDS = 60.0
"""How long to wait for another process to end its write."""


class LostLockError(Exception):
    """Another attempt has taken the run over; this one must write nothing more."""


class RunLock:
    """The lock on a run's directory, in the hands of this process or not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "lock.json"
        self._token: str | None = None
        self._threads = threading.RLock()
        self._depth = 0
        self._file: int | None = None

    def holder(self) -> dict[str, Any]:
        """Who holds the lock: host, process, job; empty if nobody does."""
        try:
            return json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}

    def take(self, heartbeat: float) -> None:
        """Take the lock, unless its holder is alive.

        Args:
            heartbeat: when the run last gave a sign of life, for a holder on another machine.

        Raises InputError if the holder is alive.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            holder = self.holder()
            if holder and self._token != holder["token"] and is_alive(holder, heartbeat):
                raise InputError(
                    f"run_dir={self._folder}: another process is at work on this run ({named(holder)}); "
                    "wait for it, or end it"
                )
            token = uuid.uuid4().hex
            write_json(self._path, {"token": token, **_myself()})
            self._token = token  # not before: where the disk is full, the file still names another

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around every write, one by one. Raises LostLockError if another attempt has the lock now."""
        with self._exclusive():
            if self._token is not None and self.holder().get("token") != self._token:
                by = named(self.holder()) or "nobody"
                raise LostLockError(f"{self._folder}: this attempt has lost the run; it is held by {by}")
            yield

    def release(self) -> None:
        """Give the lock back, if this process has it."""
        if self._token is None:
            return
        with self._exclusive():
            if self.holder().get("token") == self._token:
                self._path.unlink()
            self._token = None

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """No other process, and no other thread of this one, is in here for this directory."""
        with self._threads:
            if self._file is None:
                # One descriptor for as long as the run is held: closing any other of this file would drop the
                # process's locks on it. Who holds nothing keeps none open: a sweep has more runs than a process files.
                self._file = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._depth += 1
            try:
                if self._depth == 1:
                    self._wait_for_turn(self._file)
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    fcntl.lockf(self._file, fcntl.LOCK_UN)
                    if self._token is None:
                        os.close(self._file)
                        self._file = None

    def _wait_for_turn(self, file: int) -> None:
        """Of this process alone (`lockf`): a lock that workers inherit would outlive it when it is killed."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise InputError(f"{self._folder}: another process keeps writing there; end it") from None
                time.sleep(0.02)


def named(holder: dict[str, Any]) -> str:
    """The holder of a lock, for people; empty if there is none."""
    if not holder:
        return ""
    return f"host {holder['host']}, process {holder['pid']}" + (f", job {holder['job']}" if holder["job"] else "")


def is_alive(holder: dict[str, Any], heartbeat: float) -> bool:
    """Whether the holder of a lock is at work, as far as one can know from here.

    Not if the scheduler has started the holder's own job once more: it means the one before to be gone, and if it is
    not, this is an orphan that has to end. On this machine the process table says; elsewhere the heartbeat.
    """
    me = _myself()
    if me["job"] is not None and holder["job"] == me["job"] and holder["restart"] != me["restart"]:
        return False
    if holder["machine"] == _machine():
        return process_here(holder) is not None
    return time.time() - max(heartbeat, holder["time"]) < STALE_SECONDS


def process_here(holder: dict[str, Any]) -> int | None:
    """The process of a lock's holder, if it lives on this machine."""
    if not holder or holder["machine"] != _machine():
        return None
    began = _process(holder["pid"])
    return holder["pid"] if began is not None and began == holder["began"] else None


def _machine() -> str:
    """This machine since it was started, and the space that its process numbers are of."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text().strip() if boot.exists() else socket.gethostname()
    space = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    return f"{machine} {space}"


def _myself() -> dict[str, Any]:
    """This process, named so that it can be told from every other on any machine."""
    return {
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "began": _process(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
        "time": time.time(),
    }


def _process(pid: int) -> float | None:
    """When a process of this machine began; None if there is none, or only its unburied remains."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None

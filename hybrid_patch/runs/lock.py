"""One attempt at a time writes to a run's directory: the one named in `lock.json`.

A lock of the operating system does not reach other machines, and a process that its scheduler has lost (an orphan)
would keep it. So it only lasts as long as a write, and each write first checks which attempt the file names: one that a
later attempt has replaced ends.
"""

import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

import psutil

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_json
from hybrid_patch.runs.records import DamagedFileError, Parser, make_room, parser, read_record, set_aside

HEARTBEAT_SECONDS = 10.0
"""Between the heartbeats of a running run."""
STALE_SECONDS = 90.0
"""After this long without a heartbeat, an attempt on another machine counts as dead."""
PATIENCE_SECONDS = 60.0
"""How long to wait for another process's write."""
AT_WORK = "another process is at work on this run"
"""What the error says of a run that is locked."""
LOCK_FILES = (MUTEX, HOLDER) = (".lock", "lock.json")


class LostLockError(Exception):
    """Another attempt has taken the run over; this one must write nothing more."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a lock, identified uniquely across machines.

    Attributes:
        machine: the boot of a machine, and the namespace of its process ids.
        began: when the process did; None if the machine does not tell.
        job, restart: of SLURM.
        time: when it took the lock, in seconds since 1970.
        asked_to_stop: by `ask_to_stop`.
    """

    token: str
    host: str
    machine: str
    pid: int
    began: float | None
    job: str | None
    restart: str
    time: float
    asked_to_stop: bool = False

    def __str__(self) -> str:
        return f"host {self.host}, process {self.pid}" + (f", job {self.job}" if self.job else "")


HOLDER_OF: Parser[Holder] = parser(Holder)


class LockedFolder:
    """A folder with a lock, whether or not this object holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._holder = path / HOLDER
        self._token: str | None = None
        self._threads = threading.RLock()
        self._inside = False

    def holder(self) -> Holder | None:
        """Who holds the lock; None if nobody does. Raises DamagedFileError."""
        return read_record(self._holder, HOLDER_OF)

    def acquire(self, heartbeat: float, ended: bool = False) -> None:
        """Take the lock. Raises InputError if its holder is alive (elsewhere: by the time of its last `heartbeat`).

        A damaged lock does not name its holder: it is taken if the last attempt has `ended`, or its heartbeats have.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"run_dir={self.path}: cannot be made ({error.strerror}); give another") from error
        with self._exclusive():
            try:
                holder = self.holder()
            except DamagedFileError as error:
                if not ended and time.time() - heartbeat < STALE_SECONDS:
                    raise error.with_remedy("the run was alive a moment ago; try again in two minutes") from None
                set_aside(self._holder)
                holder = None
            if holder is not None and holder.token != self._token and is_alive(holder, heartbeat):
                raise InputError(f"run_dir={self.path}: {AT_WORK} ({holder}); wait for it, or end it")
            token = uuid.uuid4().hex
            self._write(token)
            self._token = token  # not before: where the disk is full, the file still names another

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around a single write. Raises LostLockError if another attempt has the lock now."""
        with self._exclusive():
            if self._token is not None:
                self._refuse_another(self._token)
            yield

    def unlock(self) -> None:
        if self._token is None:
            return
        with self._exclusive():
            try:
                self._refuse_another(self._token)
                self._holder.unlink()
            except LostLockError:
                pass
            self._token = None

    def ask_to_stop(self) -> Holder | None:
        """Ask who holds the lock, on whatever machine, to save and end: it looks with each heartbeat. Returns whom."""
        if not self.path.exists():
            return None
        with self._exclusive():
            holder = self.holder()
            if holder is not None:
                write_json(self._holder, asdict(replace(holder, asked_to_stop=True)))
        return holder

    def _refuse_another(self, token: str) -> None:
        """Raises LostLockError unless the lock is this object's. A damaged one is: who takes it writes a whole file."""
        try:
            holder = self.holder()
        except DamagedFileError:
            set_aside(self._holder)
            self._write(token)
            return
        if holder is None or holder.token != token:
            by = holder or "nobody"
            raise LostLockError(f"{self.path}: this attempt has lost the run; it is held by {by}")

    def _write(self, token: str) -> None:
        write_json(self._holder, asdict(_myself(token)))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Exclude other processes and other threads."""
        with self._threads:
            if self._inside:
                yield
                return
            make_room(self.path / MUTEX)
            with (self.path / MUTEX).open("a") as file:  # closing it gives the lock back
                self._wait_for_turn(file)
                self._inside = True
                try:
                    yield
                finally:
                    self._inside = False

    def _wait_for_turn(self, file: IO[str]) -> None:
        """Of this process alone (`lockf`): a lock that workers inherit would outlive it when it is killed."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise InputError(f"{self.path}: another process keeps writing there; end it") from None
                time.sleep(0.02)


def is_alive(holder: Holder | None, heartbeat: float) -> bool:
    """Whether the holder of a lock still runs, by the process table here, by the heartbeat elsewhere.

    A holder whose own job the scheduler has started again counts as dead: if it still runs, it is an orphan.
    """
    if holder is None:
        return False
    me = _myself()
    if me.job is not None and holder.job == me.job and holder.restart != me.restart:
        return False
    if holder.machine == me.machine:
        return process_here(holder) is not None
    return time.time() - max(heartbeat, holder.time) < STALE_SECONDS


def process_here(holder: Holder | None) -> int | None:
    """The process id of a lock's holder if it runs on this machine."""
    if holder is None or holder.machine != _machine():
        return None
    began = _start_time(holder.pid)
    return holder.pid if began is not None and began == holder.began else None


def _machine() -> str:
    """This boot of this machine, with the namespace of its process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text().strip() if boot.exists() else socket.gethostname()
    space = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    return f"{machine} {space}"


def _myself(token: str = "") -> Holder:
    return Holder(
        token=token,
        host=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        began=_start_time(os.getpid()),
        job=os.environ.get("SLURM_JOB_ID"),
        restart=os.environ.get("SLURM_RESTART_COUNT", "0"),
        time=time.time(),
    )


def _start_time(pid: int) -> float | None:
    """When a process of this machine began; None if absent or a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # also of a number that no process has
        return None

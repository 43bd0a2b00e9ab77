"""This machine as a queue: a background process that outlives the terminal."""

import fcntl
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from hybrid_patch.config.machine import machine_memory
from hybrid_patch.errors import InputError
from launch.config import Local
from launch.queue.interface import ArrayPreview, Live, Queue
from launch.queue.local_slots import slots_of, visible_gpus
from launch.sweep import Submission, SweepMember

LOG, LOCK = "queue.txt", "queue.lock"
log = logging.getLogger(__name__)


class LocalQueue(Queue):
    def __init__(self, cluster: Local) -> None:
        self._cluster = cluster

    def check(self, members: Collection[SweepMember]) -> None:
        slots = slots_of(self._cluster)
        for member in members:
            reason = ""
            if member.nodes > 1:
                reason = f"runtime.nodes={member.nodes} machines; this is one, cluster=slurm"
            elif slots[0].gpu is not None and member.processes > len(slots):
                reason = f"{member.processes} GPUs at a time, and there are {len(slots)} slots"
            if reason:
                raise InputError(f"{member.id}: needs {reason}")

    def require(self) -> None:
        """A member's process can always be started here."""

    def memory(self) -> int | None:
        """Bytes of the smallest GPU if there are GPUs, else of this machine."""
        if not visible_gpus():
            return machine_memory()
        if shutil.which("nvidia-smi") is None:
            return None
        query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        sizes = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
        return min((int(mebibytes) * 2**20 for mebibytes in sizes), default=None)

    def submit(self, submission: Submission) -> str:
        # The process inherits the lock, so that it counts as alive from the first moment.
        with (submission.folder / LOG).open("ab") as log, (submission.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = subprocess.Popen(
                [sys.executable, "-m", "launch.queue.local_server", str(submission.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=submission.environment(),
                cwd=submission.cwd,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
            lock.write(f"{process.pid} {socket.gethostname()}")
        slots = slots_of(self._cluster)
        kind = "GPUs" if slots[0].gpu is not None else f"slots of {slots[0].threads} CPU threads"
        return f"{len(slots)} {kind} of this machine; it goes on when the terminal is closed"

    def preview(self, submission: Submission) -> list[ArrayPreview]:
        slots = slots_of(self._cluster)
        gpus = [slot.gpu for slot in slots if slot.gpu is not None]
        resources = {
            "members": str(len(submission.members)),
            "parallel": str(len(slots)),
            "cpus": str(slots[0].threads),
            "gpus": ",".join(gpus) or "-",
        }
        return [ArrayPreview(resources)]

    def live(self, submissions: Collection[Submission]) -> dict[str, Live]:
        """The members of living queue processes. Whether they run, their own status says."""
        return {member: "waiting" for each in submissions if is_served(each) for member in each.waiting()}

    def cancel(self, submission: Submission) -> None:
        """End the queue's process if all of its members are cancelled; it reads their markers else."""
        server = server_pid(submission)  # one on another machine that shares the disk reads the markers
        if server is not None and not submission.waiting():
            with suppress(ProcessLookupError):
                os.kill(server, signal.SIGTERM)


def is_served(submission: Submission) -> bool:
    """Whether the process of a submission's queue is alive: it holds the lock."""
    return is_locked(submission.folder / LOCK)


def is_locked(path: Path) -> bool:
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def server_pid(submission: Submission) -> int | None:
    """The process of a submission's queue; None if it has ended, or is elsewhere, or its number is not written yet."""
    if not is_served(submission):
        return None
    pid, _, host = (submission.folder / LOCK).read_bytes().partition(b" ")
    # Signals to 0, 1 and -1 would reach other processes, or all.
    return (
        int(pid) if host.decode(errors="replace") == socket.gethostname() and re.fullmatch(rb"[1-9]\d+", pid) else None
    )

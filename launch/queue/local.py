"""This machine as a queue: a process in the background that lives on when the terminal is closed."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import psutil

from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.lock import process_here
from launch.config import Local
from launch.queue import Live
from launch.queue.local_slots import found_gpus, slots_of
from launch.queue.markers import leave, let_go
from launch.sweep import Member, Submission, Sweep

LOG, LOCK = "queue.txt", "queue.lock"


def code_environment(code: str) -> dict[str, str]:
    """The environment of processes that import the code from a folder, and not from the one they run in."""
    paths = [code, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


class LocalQueue:
    """The queue of this machine's slots."""

    def __init__(self, cluster: Local) -> None:
        self._cluster = cluster

    def check(self, members: Collection[Member]) -> None:
        """Raises InputError for a member that needs more than there is."""
        slots = slots_of(self._cluster)
        for member in members:
            if member.nodes > 1:
                raise InputError(
                    f"{member.id}: needs runtime.nodes={member.nodes} machines; this is one, cluster=slurm"
                )
            if slots[0].gpu is not None and member.processes > len(slots):
                raise InputError(
                    f"{member.id}: needs {member.processes} GPUs at a time, and there are {len(slots)} slots"
                )

    def memory(self) -> int | None:
        """Of a GPU, where there are some; else this machine's."""
        if not found_gpus():
            return psutil.virtual_memory().total
        if shutil.which("nvidia-smi") is None:
            return None
        words = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        said = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
        return min((int(mebibytes) * 2**20 for mebibytes in said), default=None)

    def needs_plan(self) -> bool:
        """No."""
        return False

    def submit(self, sweep: Sweep, submission: Submission) -> str:
        """Start the process that runs the members."""
        place = sweep.place(submission)
        # The process inherits the lock, so that it counts as alive from the first moment.
        with (place / LOG).open("ab") as log, (place / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = subprocess.Popen(
                [sys.executable, "-m", "launch.queue.local_server", str(place)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=code_environment(submission.code),
                cwd=submission.cwd,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
            lock.write(f"{process.pid} {socket.gethostname()}")
        slots = slots_of(self._cluster)
        kind = "GPUs" if slots[0].gpu is not None else f"slots of {slots[0].threads} CPU threads"
        return f"{len(slots)} {kind} of this machine; it goes on when the terminal is closed"

    def live(self, sweep: Sweep, submissions: Collection[Submission]) -> dict[str, Live]:
        """The members of queues whose process is alive, but those let go of. Which of them run, they say."""
        found: dict[str, Live] = {}
        for submission in submissions:
            place = sweep.place(submission)
            if server(place) is not None:
                gone = let_go(place)
                found |= {member: "waiting" for member in submission.members if member not in gone}
        return found

    def verdicts(self, sweep: Sweep, submissions: Collection[Submission]) -> dict[str, str]:
        """Nothing that the run directories do not know."""
        return {}

    def cancel(self, sweep: Sweep, submission: Submission, members: Collection[str]) -> None:
        """Leave a word for the queue's process, or end it if all are cancelled; ask trainings whose queue is gone."""
        place = sweep.place(submission)
        process = server(place)
        servers = {found[0] for each in sweep.submissions() if (found := server(sweep.place(each))) is not None}
        for member in members:
            leave(place, "cancelled", member)
            pid = process_here(RunDirectory(sweep.run(member)).holder())
            if pid is not None:
                with suppress(psutil.NoSuchProcess, ProcessLookupError):  # it has ended meanwhile
                    if psutil.Process(pid).ppid() not in servers:
                        os.kill(pid, signal.SIGTERM)
        # A queue on another machine that shares the disk reads the words.
        if process is not None and process[1] == socket.gethostname() and set(submission.members) <= let_go(place):
            os.kill(process[0], signal.SIGTERM)


def server(place: Path) -> tuple[int, str] | None:
    """The process that serves a submission's queue, and its host; None if it is gone."""
    try:
        with (place / LOCK).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, _, host = file.read().partition(" ")
                return int(pid), host
            return None
    except FileNotFoundError:
        return None

"""This machine as a queue: a background process that outlives the terminal."""

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
from launch.queue.interface import Live
from launch.queue.local_slots import slots_of, visible_gpus
from launch.queue.markers import mark, released
from launch.sweep import Submission, Sweep, SweepMember

LOG, LOCK = "queue.txt", "queue.lock"


def code_environment(code: str) -> dict[str, str]:
    """The environment of processes that import the code from a given folder, not from their working directory."""
    paths = [code, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


class LocalQueue:
    """The queue of this machine's slots."""

    def __init__(self, cluster: Local) -> None:
        self._cluster = cluster

    def check(self, members: Collection[SweepMember]) -> None:
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
        """Bytes of the smallest GPU if there are GPUs, else of this machine."""
        if not visible_gpus():
            return psutil.virtual_memory().total
        if shutil.which("nvidia-smi") is None:
            return None
        query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        sizes = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
        return min((int(mebibytes) * 2**20 for mebibytes in sizes), default=None)

    def submit(self, sweep: Sweep, submission: Submission) -> str:
        """Start the process that runs the members."""
        folder = sweep.submission_folder(submission)
        # The process inherits the lock, so that it counts as alive from the first moment.
        with (folder / LOG).open("ab") as log, (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = subprocess.Popen(
                [sys.executable, "-m", "launch.queue.local_server", str(folder)],
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
        """The members of live queue processes, without those released. Whether they run, their own status says."""
        live: dict[str, Live] = {}
        for submission in submissions:
            folder = sweep.submission_folder(submission)
            if server_process(folder) is not None:
                live |= dict.fromkeys(set(submission.members) - released(folder), "waiting")
        return live

    def verdicts(self, sweep: Sweep, submissions: Collection[Submission]) -> dict[str, str]:
        """None: the run directories know it all."""
        return {}

    def cancel(self, sweep: Sweep, submission: Submission, members: Collection[str]) -> None:
        """Leave markers for the queue's process, or end it if all are cancelled; stop trainings without a queue."""
        folder = sweep.submission_folder(submission)
        process = server_process(folder)
        servers = [server_process(sweep.submission_folder(each)) for each in sweep.submissions()]
        server_pids = {server[0] for server in servers if server is not None}
        for member in members:
            mark(folder, "cancelled", member)
            pid = process_here(RunDirectory(sweep.run(member)).holder())
            if pid is not None:
                with suppress(psutil.NoSuchProcess, ProcessLookupError):  # it has ended meanwhile
                    if psutil.Process(pid).ppid() not in server_pids:
                        os.kill(pid, signal.SIGTERM)
        # A queue on another machine that shares the disk reads the markers.
        here = process is not None and process[1] == socket.gethostname()
        if process is not None and here and set(submission.members) <= released(folder):
            with suppress(ProcessLookupError):
                os.kill(process[0], signal.SIGTERM)


def server_process(folder: Path) -> tuple[int, str] | None:
    """The process id and host of a submission's queue; None if it has ended."""
    try:
        with (folder / LOCK).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, _, host = file.read().partition(" ")
                return int(pid), host
            return None
    except FileNotFoundError:
        return None

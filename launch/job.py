"""What a SLURM job runs: `python -m launch.job <folder of a submission> <array>`.

The members of its group, each as a process of its own; it hands signals on, and puts itself back into the queue when
they were stopped in time.
"""

if __name__ == "__main__":
    import signal

    # Signals that come during the imports, which take a second, are noted. Nothing of the queues lies on the way here.
    early: set[int] = set()
    for _number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(_number, lambda number, frame: early.add(number))

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path

from hybrid_patch.runs.directory import RunDirectory
from launch.attempts import Outcome, Stop, attempts, when_there_is_room
from launch.config import Slurm
from launch.queue.local import code_environment
from launch.queue.markers import leave, left
from launch.queue.slurm import read_arrays
from launch.queue.slurm_script import ASKED
from launch.sweep import Member, read_submission, sweep_of

POLL = 1.0
"""Seconds between looks at words that were left."""


class Job:
    """A job at work on a group of members."""

    def __init__(self, place: Path, array: int) -> None:
        self.place, self.sweep = place, sweep_of(place)
        self.submission = read_submission(place)
        assert isinstance(self.submission.cluster, Slurm)
        self.cluster = self.submission.cluster
        group = read_arrays(place)[array].groups[int(os.environ["SLURM_ARRAY_TASK_ID"])]
        members = self.sweep.members()
        self.members = [members[name] for name in group]
        # srun takes a SIGTERM for itself and ends; all others it hands on.
        self.stop = Stop(signal.SIGUSR2 if self.members[0].nodes > 1 else signal.SIGTERM)
        self.outcomes: dict[str, Outcome] = {}

    def run(self, early: Collection[int]) -> int:
        """Run the members beside one another. The job's exit code.

        Args:
            early: signals that came before.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self.stop.note)
        noted: list[int] = [signal.Signals[f"SIG{name}"] for name in os.environ.pop(ASKED, "").split()]
        for before in (*early, *noted):
            self.stop.note(before)
        self._read_words()
        threads = [threading.Thread(target=self._run, args=(i,)) for i in range(len(self.members))]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._read_words()
            time.sleep(POLL)
        print(json.dumps({name: vars(outcome) for name, outcome in self.outcomes.items()}), flush=True)
        stopped = any(outcome.state == "stopped" for outcome in self.outcomes.values())
        if stopped and self._shall_go_on():
            self._requeue()
            return 0
        ended_well = [outcome for outcome in self.outcomes.values() if outcome.state in ("done", "elsewhere")]
        return int(len(ended_well) < len(self.members))

    def _read_words(self) -> None:
        for member in left(self.place, "cancelled"):
            self.stop.cancel(member)

    def _run(self, i: int) -> None:
        member = self.members[i]
        outcome = self.outcomes[member.id] = attempts(
            RunDirectory(self.sweep.run(member.id)),
            self.submission.number,
            self.cluster.retries,
            self.stop,
            self._environment(i),
            self._command(member),
        )
        if outcome.state != "stopped":  # others in this job may be at work for long
            when_there_is_room(partial(leave, self.place, "ended", member.id))

    def _command(self, member: Member) -> list[str]:
        """What starts the processes of a member of several machines; one machine's start each other."""
        if member.nodes == 1:
            return []
        steps = ["srun", f"--nodes={member.nodes}", f"--ntasks-per-node={member.processes}", "--kill-on-bad-exit=1"]
        return [*steps, sys.executable, "-u", "-m", "launch.queue.slurm_rank"]

    def _environment(self, i: int) -> dict[str, str]:
        """Of a member's process: its share of the job's threads and GPUs."""
        found = code_environment(self.submission.code)
        if self.members[i].nodes == 1:
            found.pop("SLURM_NTASKS", None)  # or Lightning expects srun to have started it
        found.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        share = len(gpus) // self.cluster.pack
        if self.cluster.pack > 1 and share:
            found["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[i * share : (i + 1) * share])
        return found

    def _shall_go_on(self) -> bool:
        """Whether the job was stopped to be started again: not if it was cancelled."""
        if signal.SIGUSR2 in self.stop.signals:
            return True
        said = subprocess.run(
            ["scontrol", "show", "job", "-o", os.environ["SLURM_JOB_ID"]], capture_output=True, text=True, check=False
        ).stdout
        preempted = re.search(r"PreemptTime=(\S+)", said)
        return preempted is not None and preempted[1] != "None" and "JobState=CANCELLED" not in said

    def _requeue(self) -> None:
        """Ask for another turn; where the controller is away, for a while."""
        for _ in range(60):
            done = subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
            if done.returncode == 0:
                return
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(Job(Path(sys.argv[1]), int(sys.argv[2])).run(early))

"""`python -m launch.queue.slurm_job SUBMISSION_FOLDER ARRAY`: run a job's members, and requeue it when they stopped."""

if __name__ == "__main__":
    import signal

    # Record signals that come during the imports, which take a second. The packages on the way here import nothing.
    early: set[int] = set()
    for _number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(_number, lambda number, frame: early.add(number))

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path

from launch.config import Slurm
from launch.queue.attempts import Attempts, Outcome
from launch.queue.node_command import by_srun, command_before, member_python
from launch.queue.process import QueueProcess
from launch.queue.slurm import read_arrays
from launch.queue.slurm_script import ASKED
from launch.sweep import SweepMember


class Job(QueueProcess):
    def __init__(self, folder: Path, array: int) -> None:
        super().__init__(folder)
        assert isinstance(self.submission.cluster, Slurm)
        self.cluster = self.submission.cluster
        group = read_arrays(self.submission)[array].groups[int(os.environ["SLURM_ARRAY_TASK_ID"])]
        self.group = [member for member in self.submission.members if member.id in group]
        if by_srun(self.cluster, self.group[0]):
            self.forward = signal.SIGUSR2  # srun ends on SIGTERM; it forwards all other signals
        self.outcomes: dict[str, Outcome] = {}

    def run(self, early: Collection[int]) -> int:
        """Run the members and return the job's exit code; `early` signals came before."""
        for member in self.group:
            self.submission.unmark("ended", member.id)  # of an earlier start of this job
            self.submission.mark("begun", member.id)
        shell_signals = [signal.Signals[f"SIG{name}"] for name in os.environ.pop(ASKED, "").split()]
        self.join([partial(self._run, i, member) for i, member in enumerate(self.group)], [*early, *shell_signals])
        print(json.dumps({name: vars(outcome) for name, outcome in self.outcomes.items()}), flush=True)
        states = [outcome.state for outcome in self.outcomes.values()]
        if "stopped" in states and self._should_requeue():
            self._requeue()
            return 0
        for member in self.group:
            outcome = self.outcomes.get(member.id)
            if outcome is not None and outcome.state == "stopped":
                self.mark_ended(member)
            if outcome is not None and outcome.state != "elsewhere":
                self.submission.unmark("begun", member.id)
        return int(sum(state in ("done", "elsewhere") for state in states) < len(self.group))

    def _run(self, i: int, member: SweepMember) -> None:
        cluster, environment = self.cluster, self._environment(i, member)
        before = command_before(cluster, self.submission, member)
        outcome = Attempts(self, member.id, environment, before, python=member_python(cluster)).make()
        self.outcomes[member.id] = outcome
        if outcome.state in ("done", "failed"):  # others in this job may be at work for long
            self.mark_ended(member)

    def _environment(self, i: int, member: SweepMember) -> dict[str, str]:
        variables = self.submission.environment()
        variables.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        share = len(gpus) // self.cluster.pack
        if self.cluster.pack > 1 and share:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[i * share : (i + 1) * share])
        return variables

    def _should_requeue(self) -> bool:
        """Whether the job was stopped to be started again, rather than cancelled."""
        if signal.SIGUSR2 in self.signals:
            return True
        command = ["scontrol", "show", "job", "-o", os.environ["SLURM_JOB_ID"]]
        job = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        preempted = re.search(r"PreemptTime=(\S+)", job)
        return preempted is not None and preempted[1] != "None" and "JobState=CANCELLED" not in job

    def _requeue(self) -> None:
        """Requeue the job; keep trying for a while if the controller is away."""
        for _ in range(60):
            if subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False).returncode == 0:
                return
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(Job(Path(sys.argv[1]), int(sys.argv[2])).run(early))

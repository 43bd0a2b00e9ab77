"""The process of a SLURM job: `python -m launch.queue.slurm_job <folder of a submission> <array>`.

Runs the members of its group, each as a process of its own, forwards signals to them, and requeues itself when they
were stopped in time.
"""

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
import threading
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path

from hybrid_patch.runs.directory import RunDirectory
from launch.attempts import Outcome, Stop, retry_when_full, run_attempts
from launch.config import Slurm
from launch.queue.local import code_environment
from launch.queue.markers import mark, marked
from launch.queue.slurm import read_arrays
from launch.queue.slurm_script import ASKED
from launch.sweep import SweepMember, read_submission, sweep_of

POLL = 1.0
"""Seconds between looks at markers."""


class Job:
    """The job of a group of members."""

    def __init__(self, folder: Path, array: int) -> None:
        self.folder, self.sweep = folder, sweep_of(folder)
        self.submission = read_submission(folder)
        assert isinstance(self.submission.cluster, Slurm)
        self.cluster = self.submission.cluster
        group = read_arrays(folder)[array].groups[int(os.environ["SLURM_ARRAY_TASK_ID"])]
        members = self.sweep.members()
        self.members = [members[name] for name in group]
        # srun ends on SIGTERM; it forwards all other signals.
        self.stop = Stop(signal.SIGUSR2 if self.members[0].nodes > 1 else signal.SIGTERM)
        self.outcomes: dict[str, Outcome] = {}

    def run(self, early: Collection[int]) -> int:
        """Run the members beside each other, and return the job's exit code.

        Args:
            early: signals that came before.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self.stop.note)
        shell_signals = [signal.Signals[f"SIG{name}"] for name in os.environ.pop(ASKED, "").split()]
        for earlier in (*early, *shell_signals):
            self.stop.note(earlier)
        self._read_markers()
        threads = [threading.Thread(target=self._run, args=(i,)) for i in range(len(self.members))]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._read_markers()
            time.sleep(POLL)
        print(json.dumps({name: vars(outcome) for name, outcome in self.outcomes.items()}), flush=True)
        stopped = any(outcome.state == "stopped" for outcome in self.outcomes.values())
        if stopped and self._should_requeue():
            self._requeue()
            return 0
        ended_well = [outcome for outcome in self.outcomes.values() if outcome.state in ("done", "elsewhere")]
        return int(len(ended_well) < len(self.members))

    def _read_markers(self) -> None:
        for member in marked(self.folder, "cancelled"):
            self.stop.cancel(member)

    def _run(self, i: int) -> None:
        member = self.members[i]
        outcome = self.outcomes[member.id] = run_attempts(
            RunDirectory(self.sweep.run(member.id)),
            self.submission.number,
            self.cluster.retries,
            self.stop,
            self._environment(i),
            self._command(member),
        )
        if outcome.state != "stopped":  # others in this job may be at work for long
            retry_when_full(partial(mark, self.folder, "ended", member.id))

    def _command(self, member: SweepMember) -> list[str]:
        """The srun command of a member on several machines; on one machine the processes start each other."""
        if member.nodes == 1:
            return []
        steps = ["srun", f"--nodes={member.nodes}", f"--ntasks-per-node={member.processes}", "--kill-on-bad-exit=1"]
        return [*steps, sys.executable, "-u", "-m", "launch.queue.slurm_rank"]

    def _environment(self, i: int) -> dict[str, str]:
        """The environment of a member's process, with its share of the job's threads and GPUs."""
        variables = code_environment(self.submission.code)
        if self.members[i].nodes == 1:
            variables.pop("SLURM_NTASKS", None)  # or Lightning expects srun to have started it
        variables.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        share = len(gpus) // self.cluster.pack
        if self.cluster.pack > 1 and share:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[i * share : (i + 1) * share])
        return variables

    def _should_requeue(self) -> bool:
        """Whether the job was stopped to be started again, rather than cancelled."""
        if signal.SIGUSR2 in self.stop.signals:
            return True
        job = subprocess.run(
            ["scontrol", "show", "job", "-o", os.environ["SLURM_JOB_ID"]], capture_output=True, text=True, check=False
        ).stdout
        preempted = re.search(r"PreemptTime=(\S+)", job)
        return preempted is not None and preempted[1] != "None" and "JobState=CANCELLED" not in job

    def _requeue(self) -> None:
        """Requeue the job; keep trying for a while if the controller is away."""
        for _ in range(60):
            done = subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
            if done.returncode == 0:
                return
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(Job(Path(sys.argv[1]), int(sys.argv[2])).run(early))

"""The attempts at a member. The run's status file decides, written here only for killed processes and full disks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hybrid_patch.errors import BAD_INPUT as BAD_INPUT_CODE
from hybrid_patch.errors import DISK_LOST, InputError
from hybrid_patch.errors import LOST as LOST_CODE
from hybrid_patch.runs.atomic_files import append_line, last_lines
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.failure import BAD_INPUT, DISK_FULL, ERROR, LOST, OUT_OF_MEMORY, cause_of
from hybrid_patch.runs.lock import AT_WORK, LostLockError
from hybrid_patch.runs.records import DamagedFileError, Parser, make_room, parser, read_rows
from launch.queue.process import QueueProcess, disk_error, write_probe

POLL = 2.0
"""Seconds between looks at another attempt."""
PREEMPTED, KILLED = "preempted", "killed"
FULL_DISK_BYTES = 2**20
"""A disk with less than this free is full."""


@dataclass(frozen=True)
class Outcome:
    """What became of a member; `elsewhere`: another attempt has taken it over. `frame` is a failure's place in code."""

    state: Literal["done", "stopped", "failed", "elsewhere"]
    cause: str = ""
    reason: str = ""
    frame: str = ""


@dataclass(frozen=True, kw_only=True)
class EndedAttempt(Outcome):
    """A line of `attempts.jsonl`: how an attempt of a submission, by its number, ended, and where."""

    submission: int
    attempt: int
    step: int
    host: str
    job: str | None
    ended: float


ENDED_ATTEMPT_OF: Parser[EndedAttempt] = parser(EndedAttempt)


@dataclass(frozen=True)
class Attempts:
    """The attempts at a member within a submission.

    Attributes:
        command: put before the training's command (`srun ...`).
        inherited_files: descriptors for the training, which then has a session of its own and outlives this process.
        python: the interpreter of the training.
    """

    process: QueueProcess
    member: str
    environment: Mapping[str, str]
    command: Sequence[str] = ()
    inherited_files: Sequence[int] = ()
    python: str = sys.executable

    @property
    def run(self) -> RunDirectory:
        return self.process.submission.sweep.run(self.member)

    def make(self) -> Outcome:
        """Start the member until it is done, has used up its retries, or is asked to stop."""
        while True:
            if outcome := self._outcome_without_disk():
                return outcome
            while self.run.alive():
                if self.process.stopping(self.member):
                    return Outcome("stopped", PREEMPTED, "asked to stop while another attempt is at work")
                time.sleep(POLL)
            if outcome := self._outcome_before():
                return outcome
            outcome = self._start()
            if outcome is None:
                continue
            if outcome.state in ("stopped", "failed"):
                self._record(outcome)
            if outcome.state in ("done", "elsewhere") or self.process.stopping(self.member):
                return outcome

    def _outcome_without_disk(self) -> Outcome | None:
        """None once the run's directory takes writes; the outcome if it is gone, or has been waited for in vain."""
        error = self.process.persist(lambda: write_probe(self.run.path), self.member)
        if error is None:
            return None
        if isinstance(error, FileNotFoundError):
            return Outcome("failed", LOST, "its directory is gone")
        if self.process.stopping(self.member):
            return Outcome("stopped", PREEMPTED, f"asked to stop while its disk took no writes ({error.strerror})")
        return Outcome("failed", cause_of(error), f"its disk takes no writes ({error.strerror})")

    def _outcome_before(self) -> Outcome | None:
        """The outcome of a member that needs no attempt, else None. Records a former attempt that vanished."""
        state = self.run.status_if_whole().state
        if state == "done":
            return Outcome("done")
        if state == "running":
            gone = Outcome("failed", LOST, "its machine, or what had started it, went away")
            self._write_status(gone)
            self._record(gone)
        rows = [row for row in ended_attempts(self.run) if row.submission == self.process.submission.number]
        if rows:
            cause = rows[-1].cause
            if sum(row.cause == cause for row in rows) > self.process.submission.cluster.retries.of(cause):
                return Outcome("failed", cause, rows[-1].reason, rows[-1].frame)
        if self.process.stopping(self.member):
            return Outcome("stopped", PREEMPTED, "asked to stop before it began")
        return None

    def _start(self) -> Outcome | None:
        """The outcome of one attempt; None if another has begun meanwhile."""
        before, kills_before = self.run.status_if_whole(), _oom_kills()
        try:
            make_room(self.run.output)
            with self.run.output.open("ab") as output:
                size = output.seek(0, os.SEEK_END)
                child = subprocess.Popen(
                    [*self.command, self.python, "-u", "-m", "hybrid_patch.resume", str(self.run.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=dict(self.environment),
                    pass_fds=self.inherited_files,
                    start_new_session=bool(self.inherited_files),
                )
        except OSError as error:
            outcome = Outcome("failed", cause_of(error), f"could not be started: {error}")
            self._write_status(outcome)
            return outcome
        code = self.process.wait(self.member, child)
        fault = disk_error(self.run.path)
        if ended := self._outcome_without_disk():
            return ended
        status = self.run.status_if_whole()
        if status.state == "done":
            return Outcome("done")
        if code == LOST_CODE:
            return Outcome("elsewhere", reason="another attempt has taken it over")
        if code == BAD_INPUT_CODE and AT_WORK.encode() in self.run.output.read_bytes()[size:]:
            return None  # both were started before either had the lock, which the other may have lost by now
        if status != before and status.state == "preempted":
            return Outcome("stopped", PREEMPTED, status.reason)
        if status != before and status.state == "failed" and status.cause:
            return Outcome("failed", status.cause, status.reason, status.frame)
        if fault is not None or code == DISK_LOST:
            outcome = Outcome("failed", LOST, f"its disk took no writes{f' ({fault.strerror})' if fault else ''}")
        else:
            outcome = self._unreported(code, out_of_memory=_oom_kills() > kills_before)
        self._write_status(outcome)
        return outcome

    def _unreported(self, code: int, out_of_memory: bool) -> Outcome:
        """The outcome of a process that could not report it itself."""
        stopping = self.process.stopping(self.member)
        number = -code if code < 0 else code - 128  # srun, like a shell, adds 128 to the signal
        if number in signal.valid_signals():
            name = signal.Signals(number).name
            if stopping:
                return Outcome("stopped", PREEMPTED, f"ended by {name} before it could save")
            if out_of_memory:
                return Outcome("failed", OUT_OF_MEMORY, "killed by the kernel for its memory")
            return Outcome("failed", KILLED, f"killed by {name}")
        lines = [line.strip() for line in last_lines(self.run.output) if line.strip()] or [""]
        last = lines[-1].removeprefix("error: ")[:500]
        if stopping and code != BAD_INPUT_CODE:
            return Outcome("stopped", PREEMPTED, f"ended before it could save ({last})")
        if shutil.disk_usage(self.run.path).free < FULL_DISK_BYTES or "No space left on device" in last:
            return Outcome("failed", DISK_FULL, last or "no space left on the disk")
        return Outcome("failed", BAD_INPUT if code == BAD_INPUT_CODE else ERROR, last or f"exit code {code}")

    def _write_status(self, outcome: Outcome) -> None:
        """Write an outcome into the run's status, unless another attempt has begun."""
        run = self.run
        state = "preempted" if outcome.state == "stopped" else "failed"

        def write() -> None:
            try:
                run.lock()
                run.set_status(state, outcome.reason, cause=outcome.cause, frame=outcome.frame)
            except (InputError, LostLockError):
                return
            finally:
                run.unlock()  # or this process would seem to be at work on the run

        self.process.persist(write, self.member)

    def _record(self, outcome: Outcome) -> None:
        def write() -> None:
            status = self.run.status_if_whole()
            row = EndedAttempt(
                submission=self.process.submission.number,
                **asdict(outcome),
                attempt=status.attempt,
                step=status.step,
                host=os.environ.get("SLURMD_NODENAME") or status.host,
                job=os.environ.get("SLURM_JOB_ID"),
                ended=time.time(),
            )
            make_room(self.run.attempts)
            append_line(self.run.attempts, json.dumps(asdict(row)))

        self.process.persist(write, self.member)


def ended_attempts(run: RunDirectory) -> list[EndedAttempt]:
    """The attempts of a run's `attempts.jsonl`, without torn lines."""
    try:
        return read_rows(run.attempts, ENDED_ATTEMPT_OF)
    except DamagedFileError:
        return []


def _oom_kills() -> int:
    """The number of out-of-memory kills in this process's control group, as far as the kernel tells."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            file = Path(f"/sys/fs/cgroup{place}/memory.events")
        elif "memory" in controllers.split(","):
            file = Path(f"/sys/fs/cgroup/memory{place}/memory.oom_control")
        else:
            continue
        if file.exists():
            return int(dict(row.split() for row in file.read_text().splitlines()).get("oom_kill", 0))
    return 0

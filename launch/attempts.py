"""The attempts at a member: its training as a process, the outcome, and whether to try again.

The run's own status file decides. It is written here only for a process that could not do so itself (killed, full
disk).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hybrid_patch.errors import BAD_INPUT as BAD_INPUT_CODE
from hybrid_patch.errors import LOST, InputError
from hybrid_patch.runs.atomic_files import append_line, last_lines
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.failure import BAD_INPUT, DISK_FULL, ERROR, OUT_OF_MEMORY, cause_of
from hybrid_patch.runs.lock import LostLockError, is_alive
from launch.config import Retries

POLL = 2.0
"""Seconds between looks at another attempt."""
PREEMPTED, KILLED, MACHINE_LOST = "preempted", "killed", "lost"
FULL_DISK_BYTES = 2**20
"""A disk with less than this free is full."""
PATIENCE = 30
"""Seconds to wait for room on a full disk."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a member.

    Attributes:
        state: `elsewhere`: another attempt has taken it over.
        cause: empty if done or elsewhere.
        frame: the place in the code that a failure came from.
    """

    state: Literal["done", "stopped", "failed", "elsewhere"]
    cause: str = ""
    reason: str = ""
    frame: str = ""


class Stop:
    """Requests to stop the members of this process, forwarded to their trainings."""

    def __init__(self, forward: signal.Signals = signal.SIGTERM) -> None:
        self.signals: set[int] = set()
        self._forward = forward
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._cancelled: set[str] = set()

    def note(self, number: int, frame: object = None) -> None:
        """Ask every member to save and end; a signal handler."""
        self.signals.add(number)
        for child in list(self._children.values()):
            child.send_signal(self._forward)

    def cancel(self, member: str) -> None:
        """Ask one member to save and end, for good; only once, since it may already be ending."""
        if member in self._cancelled:
            return
        self._cancelled.add(member)
        child = self._children.get(member)
        if child is not None:
            child.send_signal(self._forward)

    def asked(self, member: str) -> bool:
        """Whether a member was asked to stop: it must not be started again."""
        return bool(self.signals) or member in self._cancelled

    def wait(self, member: str, child: subprocess.Popen[bytes]) -> int:
        """Wait for a member's process and return its exit code."""
        self._children[member] = child
        if self.asked(member):  # a signal that came while the process was starting
            child.send_signal(self._forward)
        code = child.wait()
        del self._children[member]
        return code


def run_attempts(
    run: RunDirectory,
    submission: int,
    retries: Retries,
    stop: Stop,
    environment: Mapping[str, str],
    command: Sequence[str] = (),
    inherited_files: Sequence[int] = (),
) -> Outcome:
    """Run a member until it is done, has used up its retries, or is asked to stop.

    Args:
        submission: its number, within which retries are counted.
        environment: of the training's process.
        command: put before the training's command (`srun ...`).
        inherited_files: descriptors for the training, which then has a session of its own and outlives this process.
    """
    while True:
        if not _other_has_ended(run, stop):
            return Outcome(state="stopped", cause=PREEMPTED, reason="asked to stop while another attempt is at work")
        outcome = _outcome_before(run, submission) or _used_up(run, submission, retries)
        if outcome is not None:
            return outcome
        if stop.asked(run.path.name):
            return Outcome(state="stopped", cause=PREEMPTED, reason="asked to stop before it began")
        outcome = _attempt(run, stop, environment, command, inherited_files)
        if outcome is None:
            continue
        if outcome.state in ("stopped", "failed"):
            _record_attempt(run, submission, outcome)
        if outcome.state in ("done", "elsewhere") or stop.asked(run.path.name):
            return outcome


def _other_has_ended(run: RunDirectory, stop: Stop) -> bool:
    """Wait for another attempt at a run to end; False if asked to stop meanwhile."""
    while _other_at_work(run):
        if stop.asked(run.path.name):
            return False
        time.sleep(POLL)
    return True


def _other_at_work(run: RunDirectory) -> bool:
    holder = run.holder()
    return bool(holder) and is_alive(holder, run.status().get("heartbeat", 0.0))


def ended_attempts(run: RunDirectory) -> list[dict[str, Any]]:
    """The attempts that ended without finishing the run, oldest first."""
    rows = []
    for line in run.attempts.read_text().splitlines() if run.attempts.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # torn by a full disk
            continue
    return rows


def _outcome_before(run: RunDirectory, submission: int) -> Outcome | None:
    """The outcome of a member that needs no attempt; None if it needs one.

    Records a former attempt that vanished.
    """
    status = run.status()
    if status.get("state") == "done":
        return Outcome(state="done")
    if status.get("state") == "running":
        gone = Outcome(state="failed", cause=MACHINE_LOST, reason="its machine, or what had started it, went away")
        _write_status(run, gone)
        _record_attempt(run, submission, gone)
    return None


def _used_up(run: RunDirectory, submission: int, retries: Retries) -> Outcome | None:
    """The last outcome within a submission, if its cause has no retries left."""
    rows = [row for row in ended_attempts(run) if row["submission"] == submission]
    if not rows or sum(row["cause"] == rows[-1]["cause"] for row in rows) <= retries.of(rows[-1]["cause"]):
        return None
    return Outcome(state="failed", **{key: rows[-1][key] for key in ("cause", "reason", "frame")})


def _attempt(
    run: RunDirectory, stop: Stop, environment: Mapping[str, str], command: Sequence[str], files: Sequence[int]
) -> Outcome | None:
    """The outcome of one attempt; None if another has begun meanwhile."""
    before = run.status()
    killed_before = _oom_kills()
    try:
        with run.output.open("ab") as output:
            child = subprocess.Popen(
                [*command, sys.executable, "-u", "-m", "hybrid_patch.resume", str(run.path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                pass_fds=files,
                start_new_session=bool(files),
            )
    except OSError as error:
        outcome = Outcome(state="failed", cause=cause_of(error), reason=f"could not be started: {error}")
        _write_status(run, outcome)
        return outcome
    code = stop.wait(run.path.name, child)
    status = run.status()
    if status.get("state") == "done":
        return Outcome(state="done")
    if code == LOST:
        return Outcome(state="elsewhere", reason="another attempt has taken it over")
    new_status = status if status != before else {}
    if code == BAD_INPUT_CODE and _other_at_work(run):
        return None  # both were started before either had the lock
    if new_status.get("state") == "preempted":
        return Outcome(state="stopped", cause=PREEMPTED, reason=new_status["reason"])
    if new_status.get("state") == "failed" and new_status.get("cause"):
        return Outcome(state="failed", **{key: new_status[key] for key in ("cause", "reason", "frame")})
    outcome = _unreported_outcome(run, code, stop.asked(run.path.name), _oom_kills() > killed_before)
    _write_status(run, outcome)
    return outcome


def _unreported_outcome(run: RunDirectory, code: int, stopping: bool, out_of_memory: bool) -> Outcome:
    """The outcome of a process that could not report it itself."""
    number = -code if code < 0 else code - 128  # srun, like a shell, adds 128 to the signal
    if number in signal.valid_signals():
        name = signal.Signals(number).name
        if stopping:
            return Outcome(state="stopped", cause=PREEMPTED, reason=f"ended by {name} before it could save")
        if out_of_memory:
            return Outcome(state="failed", cause=OUT_OF_MEMORY, reason="killed by the kernel for its memory")
        return Outcome(state="failed", cause=KILLED, reason=f"killed by {name}")
    last = _last_line(run.output)
    if stopping and code != BAD_INPUT_CODE:
        return Outcome(state="stopped", cause=PREEMPTED, reason=f"ended before it could save ({last})")
    if shutil.disk_usage(run.path).free < FULL_DISK_BYTES or "No space left on device" in last:
        return Outcome(state="failed", cause=DISK_FULL, reason=last or "no space left on the disk")
    cause = BAD_INPUT if code == BAD_INPUT_CODE else ERROR
    return Outcome(state="failed", cause=cause, reason=last or f"exit code {code}")


def _write_status(run: RunDirectory, outcome: Outcome) -> None:
    """Write an outcome into the run's status, unless another attempt has begun."""

    def write() -> None:
        state = "preempted" if outcome.state == "stopped" else "failed"
        try:
            run.lock()
            run.set_status(state, outcome.reason, cause=outcome.cause, frame=outcome.frame)
        except (InputError, LostLockError):
            return
        finally:
            run.unlock()  # or this process would seem to be at work on the run

    retry_when_full(write)


def _record_attempt(run: RunDirectory, submission: int, outcome: Outcome) -> None:
    """Add a line to the run's `attempts.jsonl`."""
    status = run.status()
    row = {
        "submission": submission,
        **asdict(outcome),
        "attempt": status.get("attempt", 0),
        "step": status.get("step", 0),
        "host": os.environ.get("SLURMD_NODENAME") or status.get("host"),
        "job": os.environ.get("SLURM_JOB_ID"),
        "ended": time.time(),
    }

    retry_when_full(lambda: append_line(run.attempts, json.dumps(row)))


def retry_when_full(write: Callable[[], None]) -> None:
    """Write, and retry for a while on a full disk. Gives up silently: the status is then found stale."""
    for _ in range(PATIENCE):
        try:
            write()
            return
        except OSError as error:
            with suppress(OSError):  # this message goes to a file on the same disk
                print(f"{error}; trying again", file=sys.stderr, flush=True)
            time.sleep(1)


def _last_line(path: Path) -> str:
    """The last line of a file that is not empty, without `error: `."""
    lines = [line.strip() for line in last_lines(path) if line.strip()]
    return lines[-1].removeprefix("error: ")[:500] if lines else ""


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
            counts = dict(row.split() for row in file.read_text().splitlines())
            return int(counts.get("oom_kill", 0))
    return 0

"""A member's attempts: its training as a process, what became of it, and whether to try again.

What counts is what the run's own status file says. Only where a process ended without a word (killed, no disk) is that
written here.
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

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import append_line, last_lines
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.failure import BAD_INPUT, DISK_FULL, ERROR, OUT_OF_MEMORY, cause_of
from hybrid_patch.runs.lock import LostLockError, is_alive
from launch.config import Retries

DONE, STOPPED, LOST, BAD = 0, 75, 76, 2
"""Exit codes of a training."""
POLL = 2.0
"""Seconds between looks at another attempt."""
PREEMPTED, KILLED, MACHINE_LOST = "preempted", "killed", "lost"
FEW_BYTES = 2**20
"""A disk with less than this is full."""
PATIENCE = 30
"""Seconds that a full disk is waited for, to say that it was full."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a member.

    Attributes:
        state: `elsewhere`: another attempt has taken it over.
        cause: of anything but done and elsewhere.
        frame: the place in the code that a failure is from.
    """

    state: Literal["done", "stopped", "failed", "elsewhere"]
    cause: str = ""
    reason: str = ""
    frame: str = ""


class Stop:
    """Whether the members of this process were asked to stop, and the processes to hand that on to."""

    def __init__(self, forward: signal.Signals = signal.SIGTERM) -> None:
        self.signals: set[int] = set()
        self._forward = forward
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._cancelled: set[str] = set()

    def note(self, number: int, frame: object = None) -> None:
        """The handler of a signal: every member is asked to save and end."""
        self.signals.add(number)
        for child in list(self._children.values()):
            child.send_signal(self._forward)

    def cancel(self, member: str) -> None:
        """Ask one member to save and end, for good. Asked again, it is left alone: it may be in its last lines."""
        if member in self._cancelled:
            return
        self._cancelled.add(member)
        child = self._children.get(member)
        if child is not None:
            child.send_signal(self._forward)

    def asked(self, member: str) -> bool:
        """Whether a member must not be started again from here."""
        return bool(self.signals) or member in self._cancelled

    def wait(self, member: str, child: subprocess.Popen[bytes]) -> int:
        """Wait for a member's process; its exit code."""
        self._children[member] = child
        if self.asked(member):  # a signal that came while the process was being made
            child.send_signal(self._forward)
        code = child.wait()
        del self._children[member]
        return code


def attempts(
    run: RunDirectory,
    submission: int,
    retries: Retries,
    stop: Stop,
    environment: Mapping[str, str],
    command: Sequence[str] = (),
    kept: Sequence[int] = (),
) -> Outcome:
    """Run a member until it is done, has used up its retries, or is asked to stop.

    Args:
        submission: its number; retries are counted within it.
        environment: of its process.
        command: in front of the training's own (`srun ...`).
        kept: descriptors that it inherits; with them it has a session of its own, and outlives this process.
    """
    while True:
        if not _other_has_ended(run, stop):
            return Outcome(state="stopped", cause=PREEMPTED, reason="asked to stop while another attempt is at work")
        outcome = _standing(run, submission) or _used_up(run, submission, retries)
        if outcome is not None:
            return outcome
        if stop.asked(run.path.name):
            return Outcome(state="stopped", cause=PREEMPTED, reason="asked to stop before it began")
        outcome = _attempt(run, stop, environment, command, kept)
        if outcome is None:
            continue
        if outcome.state in ("stopped", "failed"):
            _add(run, submission, outcome)
        if outcome.state in ("done", "elsewhere") or stop.asked(run.path.name):
            return outcome


def _other_has_ended(run: RunDirectory, stop: Stop) -> bool:
    """Wait for another attempt at a run to end; False if asked to stop before it has."""
    while _other_at_work(run):
        if stop.asked(run.path.name):
            return False
        time.sleep(POLL)
    return True


def _other_at_work(run: RunDirectory) -> bool:
    holder = run.holder()
    return bool(holder) and is_alive(holder, run.status().get("heartbeat", 0.0))


def ended(run: RunDirectory) -> list[dict[str, Any]]:
    """The attempts at a run that have ended, oldest first."""
    rows = []
    for line in run.attempts.read_text().splitlines() if run.attempts.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # torn by a full disk
            continue
    return rows


def _standing(run: RunDirectory, submission: int) -> Outcome | None:
    """How a member stands before an attempt, if that means there must be none.

    An attempt that went away without a word is written down first.
    """
    status = run.status()
    if status.get("state") == "done":
        return Outcome(state="done")
    if status.get("state") == "running":
        gone = Outcome(state="failed", cause=MACHINE_LOST, reason="its machine, or what had started it, went away")
        _say(run, gone)
        _add(run, submission, gone)
    return None


def _used_up(run: RunDirectory, submission: int, retries: Retries) -> Outcome | None:
    """The last outcome within a submission, if its cause has no retry left."""
    rows = [row for row in ended(run) if row["submission"] == submission]
    if not rows or sum(row["cause"] == rows[-1]["cause"] for row in rows) <= retries.of(rows[-1]["cause"]):
        return None
    return Outcome(state="failed", **{key: rows[-1][key] for key in ("cause", "reason", "frame")})


def _attempt(
    run: RunDirectory, stop: Stop, environment: Mapping[str, str], command: Sequence[str], kept: Sequence[int]
) -> Outcome | None:
    """What became of one attempt; None: another has begun meanwhile."""
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
                pass_fds=kept,
                start_new_session=bool(kept),
            )
    except OSError as error:
        outcome = Outcome(state="failed", cause=cause_of(error), reason=f"could not be started: {error}")
        _say(run, outcome)
        return outcome
    code = stop.wait(run.path.name, child)
    status = run.status()
    if status.get("state") == "done":
        return Outcome(state="done")
    if code == LOST:
        return Outcome(state="elsewhere", reason="another attempt has taken it over")
    said = status if status != before else {}
    if code == BAD and _other_at_work(run):
        return None  # both were started before either had the lock
    if said.get("state") == "preempted":
        return Outcome(state="stopped", cause=PREEMPTED, reason=said["reason"])
    if said.get("state") == "failed" and said.get("cause"):
        return Outcome(state="failed", cause=said["cause"], reason=said["reason"], frame=said["frame"])
    outcome = _without_a_word(run, code, stop.asked(run.path.name), _oom_kills() > killed_before)
    _say(run, outcome)
    return outcome


def _without_a_word(run: RunDirectory, code: int, stopping: bool, out_of_memory: bool) -> Outcome:
    """What became of a process that could not say so itself."""
    number = -code if code < 0 else code - 128  # srun, like a shell, adds 128 to the signal
    if number in signal.valid_signals():
        name = signal.Signals(number).name
        if stopping:
            return Outcome(state="stopped", cause=PREEMPTED, reason=f"ended by {name} before it could save")
        if out_of_memory:
            return Outcome(state="failed", cause=OUT_OF_MEMORY, reason="killed by the kernel for its memory")
        return Outcome(state="failed", cause=KILLED, reason=f"killed by {name}")
    last = _last_line(run.output)
    if stopping and code != BAD:
        return Outcome(state="stopped", cause=PREEMPTED, reason=f"ended before it could save ({last})")
    if shutil.disk_usage(run.path).free < FEW_BYTES or "No space left on device" in last:
        return Outcome(state="failed", cause=DISK_FULL, reason=last or "no space left on the disk")
    return Outcome(state="failed", cause=BAD_INPUT if code == BAD else ERROR, reason=last or f"exit code {code}")


def _say(run: RunDirectory, outcome: Outcome) -> None:
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

    when_there_is_room(write)


def _add(run: RunDirectory, submission: int, outcome: Outcome) -> None:
    """A line in the run's `attempts.jsonl`."""
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

    when_there_is_room(lambda: append_line(run.attempts, json.dumps(row)))


def when_there_is_room(write: Callable[[], None]) -> None:
    """Try again for a while where the disk is full; in the end let it be: the status is then found stale."""
    for _ in range(PATIENCE):
        try:
            write()
            return
        except OSError as error:
            with suppress(OSError):  # what is said here goes to a file on the same disk
                print(f"{error}; trying again", file=sys.stderr, flush=True)
            time.sleep(1)


def _last_line(path: Path) -> str:
    """The last line that is not empty, without `error: `."""
    lines = [line.strip() for line in last_lines(path) if line.strip()]
    return lines[-1].removeprefix("error: ")[:500] if lines else ""


def _oom_kills() -> int:
    """Processes of this one's control group that the kernel has killed for their memory, as far as one can know."""
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

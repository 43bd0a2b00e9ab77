"""How the members of a sweep stand: what their run directories say, and what their queues still have."""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hybrid_patch.runs.atomic_files import last_lines
from hybrid_patch.runs.directory import METRICS, RunDirectory
from hybrid_patch.runs.lock import STALE_SECONDS, holder_text, is_alive
from launch.queue import Live, QueueSilentError, queue_of
from launch.sweep import Member, Submission, Sweep

State = Literal["done", "running", "queued", "stopped", "stale", "failed", "missing"]
STATES: tuple[State, ...] = ("done", "running", "queued", "stopped", "stale", "failed", "missing")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a member stands.

    Attributes:
        state: by the run's own word: `done`, `failed`; `running`: and alive; `stale`: it says so, but gives no sign of
            life; `queued`: a queue has it; `stopped`: its state is saved, and no queue has it; `missing`: neither begun
            nor queued.
        rate: steps per second, in the last step.
        who: holds its lock.
        live: whether a queue still has it. A queue may do so for a while after a machine has died.
    """

    member: Member
    state: State
    step: int = 0
    steps: int | None = None
    rate: float | None = None
    loss: float | None = None
    reason: str = ""
    cause: str = ""
    frame: str = ""
    attempt: int = 0
    who: str = ""
    live: bool = False

    @property
    def idle(self) -> bool:
        """Whether it will not be done unless it is submitted again."""
        return self.state in ("stopped", "stale", "failed", "missing") and not self.live

    @property
    def goes_on(self) -> bool:
        """Whether it runs, or waits for its turn."""
        return self.state != "done" and not self.idle

    @property
    def seconds_left(self) -> float | None:
        """Until the last step, if the steps go on as the last one."""
        if self.rate is None or self.steps is None or self.state != "running":
            return None
        return (self.steps - self.step) / self.rate


def standings(sweep: Sweep, members: Iterable[Member] | None = None, patient: bool = False) -> list[Standing]:
    """How members stand (None: all of the manifest).

    Args:
        patient: where a queue does not answer, say so and take what was handed to it for waiting; it is for looking
            on. Without, raises QueueSilentError: what is done next must not depend on a guess.
    """
    chosen = list(sweep.members().values() if members is None else members)
    live: dict[str, Live] = {}
    by_queue = [(queue_of(of_kind[-1].cluster), of_kind) for of_kind in _by_kind(sweep.submissions())]
    for queue, submissions in by_queue:
        try:
            live |= queue.live(sweep, submissions)
        except QueueSilentError as error:
            if not patient:
                raise
            log.warning("%s; what is not done is taken for queued", error)
            live |= {member: "waiting" for each in submissions for member in each.members}
    found = [standing(sweep.run(member.id), member, live.get(member.id)) for member in chosen]
    if any(each.state in ("stale", "missing") for each in found):
        verdicts: dict[str, str] = {}
        for queue, submissions in by_queue:
            verdicts |= queue.verdicts(sweep, submissions)
        found = [_with_verdict(each, verdicts.get(each.member.id)) for each in found]
    return found


def _by_kind(submissions: Iterable[Submission]) -> Iterable[list[Submission]]:
    kinds: dict[str, list[Submission]] = {}
    for submission in submissions:
        kinds.setdefault(submission.cluster.name, []).append(submission)
    return kinds.values()


def _with_verdict(each: Standing, verdict: str | None) -> Standing:
    if verdict is None or each.state not in ("stale", "missing"):
        return each
    return replace(each, reason=f"{each.reason}; its job: {verdict}".removeprefix("; "))


def standing(folder: Path, member: Member, live: Live | None) -> Standing:
    """How one member stands, by its run directory and what its queue says."""
    run = RunDirectory(folder)
    status = run.status()
    if not status:
        return Standing(member=member, state="queued" if live else "missing")
    holder = run.holder()
    said, heartbeat = status["state"], status["heartbeat"]
    recent = time.time() - heartbeat < STALE_SECONDS
    state: State
    if said == "done":
        state = "done"
    elif said == "running" and recent and ((holder and is_alive(holder, heartbeat)) or live == "running"):
        state = "running"
    elif said == "running" and live == "waiting" and not (holder and is_alive(holder, heartbeat)):
        state = "queued"
    elif said == "running":
        state = "stale"
    elif live:
        state = "queued"
    else:
        state = "failed" if said == "failed" else "stopped"
    last = last_metrics(folder / METRICS)
    seconds = last.get("step_seconds", 0.0) + last.get("data_seconds", 0.0)
    reason = status["reason"]
    if state == "stale":
        who = holder_text(holder) or f"host {status['host']}"
        reason = f"no sign of life for {time.time() - heartbeat:.0f} s; was {who}"
        reason += "; its queue still has it, and may start it again" if live else ""
    return Standing(
        member=member,
        state=state,
        step=max(last.get("step", 0), status["step"]) if state == "running" else status["step"],
        steps=status.get("steps"),
        rate=1 / seconds if seconds else None,
        loss=last.get("loss"),
        reason=reason,
        cause=status.get("cause", ""),
        frame=status.get("frame", ""),
        attempt=status["attempt"],
        who=holder_text(holder),
        live=live is not None,
    )


def counts(found: Iterable[Standing]) -> str:
    """How many are in which state: `3 done, 1 running`."""
    numbers = Counter(each.state for each in found)
    return ", ".join(f"{numbers[state]} {state}" for state in STATES if numbers[state]) or "no members"


def last_metrics(path: Path) -> dict[str, Any]:
    """The last whole line of the metrics."""
    try:
        lines = last_lines(path)
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return {}

"""The status of a sweep's members, from their run directories and from their queues."""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from hybrid_patch.runs.directory import EVALUATING, RunDirectory, Status
from hybrid_patch.runs.lock import STALE_SECONDS
from hybrid_patch.runs.records import DamagedFileError
from launch.queue.choice import has_queue, queue_of
from launch.queue.interface import Live, QueueSilentError
from launch.sweep import Submission, Sweep, SweepMember

State = Literal["done", "running", "queued", "stopped", "cancelled", "stale", "failed", "missing", "damaged"]
POLL = 2.0
"""Seconds between looks at a sweep."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MemberStatus:
    """The status of a member.

    Attributes:
        state: `done`, `failed`: as the run reports; `running`, `stale`: it reports running, and is alive or not;
            `queued`: a queue has it; `stopped`: saved, and no queue has it; `cancelled`: the same, or not begun, since
            a person wanted that; `missing`: neither begun nor queued; `damaged`: its status cannot be read.
        rate: steps per second.
        reason: why it is in that state; of a running one what it does beside steps: `evaluating 12/80`.
        evaluating: whether that is an evaluation, which is expected to end at `evaluation_ends`, in seconds since 1970.
        live: whether a queue still has it, which may last a while after a machine has died.
    """

    member: SweepMember
    state: State
    step: int = 0
    steps: int | None = None
    rate: float | None = None
    loss: float | None = None
    reason: str = ""
    cause: str = ""
    frame: str = ""
    live: bool = False
    evaluating: bool = False
    evaluation_ends: float | None = None

    @property
    def resubmittable(self) -> bool:
        """Whether it will only be finished if it is submitted again."""
        return self.state in ("stopped", "cancelled", "stale", "failed", "missing", "damaged") and not self.live

    @property
    def active(self) -> bool:
        return self.state != "done" and not self.resubmittable

    @property
    def seconds_left(self) -> float | None:
        """Of its evaluation while it evaluates, else of its steps."""
        if self.evaluating:
            return None if self.evaluation_ends is None else max(self.evaluation_ends - time.time(), 0.0)
        if self.rate is None or self.steps is None or self.state != "running":
            return None
        return (self.steps - self.step) / self.rate


def member_statuses(
    sweep: Sweep, members: Iterable[SweepMember] | None = None, patient: bool = False
) -> list[MemberStatus]:
    """The status of members (None: all). A silent queue raises QueueSilentError; if `patient`, it is only a warning."""
    by_cluster: dict[str, list[Submission]] = {}
    every = sweep.submissions()
    for submission in every:
        by_cluster.setdefault(submission.cluster.name, []).append(submission)
    by_queue = [(queue_of(submissions[-1].cluster), submissions) for submissions in by_cluster.values()]
    live: dict[str, Live] = {}
    for queue, submissions in by_queue:
        try:
            live |= queue.live(submissions)
        except QueueSilentError as error:
            if not patient:
                raise
            log.warning("%s; what is not done is taken for queued", error)
            live |= {member: "waiting" for each in submissions for member in each.ids}
    if any(has_queue(folder) for folder in sweep.damaged_submissions()):  # of which members, nobody can tell
        live = {**dict.fromkeys(sweep.members(), "waiting"), **live}
    members = sweep.members().values() if members is None else members
    statuses = [member_status(sweep.run(member.id), member, live.get(member.id)) for member in members]
    cancelled = _cancelled(every)
    verdicts: dict[str, str] = {}
    unexplained = {each.member.id for each in statuses if each.state in ("stale", "missing", "stopped")} - cancelled
    for submission in reversed(every):  # each member's last one
        if asked := unexplained & set(submission.ids):
            verdicts |= queue_of(submission.cluster).verdicts(submission, asked)
        unexplained -= asked
    return [_judged(each, verdicts.get(each.member.id, ""), each.member.id in cancelled) for each in statuses]


def _cancelled(submissions: Iterable[Submission]) -> set[str]:
    """The members that a person has cancelled, and not submitted again."""
    cancelled: set[str] = set()
    for submission in submissions:
        cancelled = (cancelled - set(submission.ids)) | submission.marked("cancelled")
    return cancelled


def _judged(status: MemberStatus, verdict: str, cancelled: bool) -> MemberStatus:
    """A status with what its queue remembers of its job, and what a person has wished."""
    gone = status.state == "missing" and status.reason
    if status.state in ("stopped", "missing") and not gone and (cancelled or verdict.startswith("CANCELLED")):
        return replace(status, state="cancelled")
    if status.state in ("stale", "missing") and verdict:
        return replace(status, reason=f"{status.reason}; its job: {verdict}".removeprefix("; "))
    return status


def member_status(run: RunDirectory, member: SweepMember, live: Live | None) -> MemberStatus:
    remedy = "hybrid-patch launch resume makes it anew"
    try:
        status = run.status()
    except OSError as error:
        reason = f"its disk cannot be read: {error.strerror}"
        return MemberStatus(member=member, state="stale", reason=reason, live=live is not None)
    except DamagedFileError as error:
        reason = str(error.with_remedy(remedy))
        return MemberStatus(member=member, state="damaged", reason=reason, live=live is not None or run.alive())
    if not run.path.exists():
        return MemberStatus(member=member, state="missing", reason="its directory is gone", live=live is not None)
    if not status.state:
        return MemberStatus(member=member, state="queued" if live else "missing")
    state = _state(status, run.alive(), live)
    last = run.last_metrics()
    seconds = sum(last.get(name) or 0.0 for name in ("step_seconds", "data_seconds"))
    reason = status.reason
    if state == "stale":
        try:
            last_holder = str(run.holder() or f"host {status.host}")
        except DamagedFileError as error:
            last_holder = f"host {status.host} ({error.with_remedy(remedy)})"
        reason = f"no sign of life for {time.time() - status.heartbeat:.0f} s; was {last_holder}"
        reason += "; its queue still has it, and may start it again" if live else ""
    evaluating = state == "running" and reason == EVALUATING
    if evaluating and status.evaluation_work is not None:
        reason = f"{EVALUATING} {status.evaluated}/{status.evaluation_work}"
    if status.state == "running" and not os.access(run.path, os.W_OK):
        reason = "; ".join(filter(None, [reason, "its directory cannot be written"]))
    return MemberStatus(
        member=member,
        state=state,
        step=max(last.get("step", 0), status.step) if state == "running" else status.step,
        steps=status.steps,
        rate=1 / seconds if seconds else None,
        loss=last.get("loss"),
        reason=reason,
        cause=status.cause,
        frame=status.frame,
        live=live is not None,
        evaluating=evaluating,
        evaluation_ends=status.evaluation_ends,
    )


def _state(status: Status, held: bool, live: Live | None) -> State:
    """The state of a run, whose lock is `held` by a living process or not."""
    if status.state == "done":
        return "done"
    if status.state == "running":
        recent = time.time() - status.heartbeat < STALE_SECONDS
        if recent and (held or live == "running"):
            return "running"
        return "queued" if live == "waiting" and not held else "stale"
    if live:
        return "queued"
    return "failed" if status.state == "failed" else "stopped"


def counts(statuses: Iterable[MemberStatus]) -> str:
    """The number of members in each state: `3 done, 1 running`."""
    numbers = Counter(each.state for each in statuses)
    return ", ".join(f"{numbers[state]} {state}" for state in get_args(State) if numbers[state]) or "no members"

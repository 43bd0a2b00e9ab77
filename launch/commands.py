"""The commands that start and stop members: plan, submit, cancel, resume. Those that look on are in `watching`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hybrid_patch.config.options import Flag, Option, Overrides, Positional
from hybrid_patch.errors import DONE, InputError
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.provenance import provenance
from launch.config import Cluster, read_cluster
from launch.queue.choice import queue_of
from launch.snapshot import snapshot_code
from launch.status import MemberStatus, counts, member_statuses
from launch.status_table import overview, show
from launch.submit import SweepRequest, hand_over, other_commits, plan_memory, submit, validate_sweep
from launch.sweep import Sweep, SweepMember, chosen_sweep, find_member, sweeps

if TYPE_CHECKING:
    from hybrid_patch.cost.devices import Device

ClusterWords = Annotated[
    tuple[str, ...],
    Overrides(
        {
            "cluster=local|slurm": "where members run: a file of conf/cluster/",
            "cluster.KEY=VALUE": "a value of it, as cluster.slots=2 or cluster.partition=gpu",
        },
        groups=("cluster",),
    ),
]
RunOverrides = Annotated[
    tuple[str, ...],
    Overrides({"key=value": "of the runs, as in hybrid-patch train: groups, values, sweeps (seed=0,1 or +sweep=NAME)"}),
]
SweepName = Annotated[str | None, Positional("SWEEP", "a name below runs/, or a path; without it, the last submitted")]
DryRun = Annotated[bool, Option("true", "say what would be submitted, and stop there")]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """A sweep, and where it would run."""

    cluster: ClusterWords = ()
    overrides: RunOverrides = ()


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(PlanOptions):
    """A sweep, and where it runs."""

    dry_run: DryRun = False


@dataclass(frozen=True, kw_only=True)
class CancelOptions:
    """What to cancel."""

    name: Annotated[str, Positional("ID|SWEEP", "a member, by the beginning or end of its id, or a whole sweep")]


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """What to resume, and where."""

    sweep: SweepName = None
    failed_only: Annotated[bool, Flag("--failed-only", "only failed members, not stopped or missing ones")] = False
    cluster: ClusterWords = ()
    dry_run: DryRun = False


def plan_command(options: PlanOptions) -> int:
    """Show a sweep's members and what they will take; start nothing."""
    from hybrid_patch.cost.plan_report import plan_report
    from hybrid_patch.cost.plan_tables import plan_tables

    cluster = read_cluster(options.cluster)
    request = validate_sweep(options.overrides, cluster)
    statuses = member_statuses(request.sweep, request.members())
    device = _device(cluster)
    request, plan = plan_memory(request, queue_of(cluster).memory(), device)
    tables = plan_tables(plan_report(plan, device))
    show(overview(request.sweep.name, statuses, brief=True), *tables, *_notes(request, statuses))
    return DONE


def submit_command(options: SubmitOptions) -> int:
    """Validate every member, freeze its config and the code, and hand it to a queue."""
    cluster = read_cluster(options.cluster)
    queue = queue_of(cluster)
    request = validate_sweep(options.overrides, cluster)
    queue.check(request.members())
    limit = queue.memory()
    if limit is not None or cluster.device is not None or cluster.needs_plan:
        request, _ = plan_memory(request, limit, _device(cluster))
    name = request.sweep.name
    if options.dry_run:
        statuses = member_statuses(request.sweep, request.members())
        todo = sum(each.resubmittable for each in statuses)
        last = f"dry_run: {todo} members would be submitted"
        show(overview(name, statuses, brief=True), *_notes(request, statuses), last)
        return DONE
    submission, before, line = submit(request, cluster)
    statuses = member_statuses(request.sweep, request.members())
    show(overview(name, statuses, brief=True), *_notes(request, before))
    if submission is None:
        print(f"nothing to submit: {counts(before)}")
    else:
        print(f"submitted {len(submission.members)} members of {name}: {line}")
        print(f"  hybrid-patch launch status {shlex.quote(name)}   (or wait, cancel; logs ID)")
    return DONE


def cancel_command(options: CancelOptions) -> int:
    """Cancel a member or a whole sweep: running members save their state first, and `resume` continues them."""
    by_name = {sweep.name: sweep for sweep in sweeps()}
    if options.name in by_name:
        sweep = by_name[options.name]
        members = list(sweep.members().values())
    else:
        sweep, member = find_member(options.name)
        members = [member]
    statuses = member_statuses(sweep, members, patient=True)
    cancel_members(sweep, members)
    active = sum(each.active for each in statuses)
    if not active:
        print(f"nothing to cancel: {counts(statuses)}")
        return DONE
    print(f"cancelled {active} members of {sweep.name}; what runs saves its state first; resume goes on with it")
    return DONE


def cancel_members(sweep: Sweep, members: Sequence[SweepMember]) -> None:
    """Cancel members in every submission that has them."""
    ids = {member.id for member in members}
    for submission in sweep.submissions():
        submitted = [member for member in submission.members if member in ids]
        if submitted:
            queue_of(submission.cluster).cancel(sweep, submission, submitted)


def resume_command(options: ResumeOptions) -> int:
    """Submit again what failed, was stopped or is missing, with the configs of its first submission."""
    sweep = chosen_sweep(options.sweep)
    if not sweep.submissions():
        raise InputError(f"{sweep.name}: was never handed to a queue; submit it again")
    before = sweep.submissions()[-1]
    cluster = read_cluster(options.cluster, before=before.cluster)
    with sweep.locked():
        statuses = member_statuses(sweep)
        todo = [each for each in statuses if each.resubmittable]
        if options.failed_only:
            todo = [each for each in todo if each.state in ("failed", "stale")]
        members = [each.member for each in todo]
        if not members:
            print(f"nothing to resume: {counts(statuses)}")
            return DONE
        if options.dry_run:
            print(f"dry_run: {len(members)} members would be submitted again")
            return DONE
        _check_resumable(sweep, members, cluster)
        submission, line = hand_over(sweep, members, snapshot_code(sweep.code, cluster.dirty), cluster, before.cwd)
    print(f"submitted {len(submission.members)} members of {sweep.name} again: {line}")
    return DONE


def _check_resumable(sweep: Sweep, members: Sequence[SweepMember], cluster: Cluster) -> None:
    queue_of(cluster).check(members)
    if cluster.needs_plan and any(member.memory is None for member in members):
        raise InputError("cluster.memory=plan: these members were submitted without a plan; submit them with it")
    lost = sum(not RunDirectory(sweep.run(member.id)).exists() for member in members)
    if lost:
        raise InputError(f"{sweep.name}: {lost} members have no directory; submit them again")


def _device(cluster: Cluster) -> "Device | None":
    if cluster.device is None:
        return None
    from hybrid_patch.cost.devices import device_named

    return device_named(cluster.device)


def _notes(request: SweepRequest, statuses: Sequence[MemberStatus]) -> list[str]:
    """Lines about repeated members, and about members begun from another commit."""
    notes = []
    if request.repeated:
        notes.append(f"{request.repeated} members are the same run as one before; each runs once")
    begun = [each.member for each in statuses if each.state != "missing"]
    for commit, members in other_commits(request.sweep, begun, provenance()["commit"]).items():
        done = sum(each.state == "done" for each in statuses if each.member.id in members)
        notes.append(f"{len(members)} members were begun from another commit, {commit[:12]} ({done} of them are done)")
    return notes

"""The commands that start and stop members: plan, submit, cancel, resume."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from hybrid_patch.config.options import Flag, Option, Overrides, Positional
from hybrid_patch.config.overrides import key_of
from hybrid_patch.config.sources import chosen_sources
from hybrid_patch.errors import DONE, FAILED, InputError, number_of
from hybrid_patch.runs.provenance import provenance
from hybrid_patch.runs.records import DamagedFileError
from launch.cancel import cancel_members, unreached
from launch.config import Cluster, read_cluster
from launch.dry_run import show_previews
from launch.queue.choice import queue_of
from launch.snapshot import snapshot_code
from launch.status import MemberStatus, State, counts, member_statuses
from launch.status_table import overview, show
from launch.submit import (
    SweepRequest,
    frozen_again,
    hand_over,
    may_not_fit,
    plan_memory,
    request_sweep,
    submit,
    with_configs,
)
from launch.sweep import chosen_sweep, find_member, sweeps

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
ConfigDir = Annotated[
    Path | None,
    Flag("--config-dir", "a folder of more config groups, laid out as conf/ is; the sweep keeps a copy", "DIR"),
]
DryRun = Annotated[bool, Option("true", "show what would be submitted, sbatch scripts too, and stop there")]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    cluster: ClusterWords = ()
    overrides: RunOverrides = ()
    config_dir: ConfigDir = None


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(PlanOptions):
    dry_run: DryRun = False


@dataclass(frozen=True, kw_only=True)
class CancelOptions:
    name: Annotated[str, Positional("ID|SWEEP", "a member, by the beginning or end of its id, or a whole sweep")]


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    sweep: SweepName = None
    failed_only: Annotated[
        bool, Flag("--failed-only", "only failed members, not stopped, cancelled or missing ones")
    ] = False
    cluster: ClusterWords = ()
    config_dir: ConfigDir = None
    dry_run: DryRun = False


def plan_command(options: PlanOptions) -> int:
    """Show a sweep's members and what they will take; start nothing."""
    from hybrid_patch.cost.plan_report import plan_report, plan_tables

    cluster, request = _requested(options)
    statuses = member_statuses(request.sweep, request.members(), patient=True)
    request, plan, device = plan_memory(request, cluster)
    tables = plan_tables(plan_report([member.arguments for member in request.members()], plan, device))
    show(overview(request.sweep.name, statuses, brief=True), *tables, *_notes(request, statuses))
    return DONE


def submit_command(options: SubmitOptions) -> int:
    """Validate every member, freeze its config and the code, and hand it to a queue."""
    cluster, request = _requested(options)
    queue, sweep = queue_of(cluster), request.sweep
    if not options.dry_run:
        queue.require()
    queue.check(request.members())
    if cluster.device is not None or cluster.needs_plan or may_not_fit(request, queue.memory()):
        request, _, _ = plan_memory(request, cluster)
    if options.dry_run:
        before = member_statuses(sweep, request.members(), patient=True)
        show(overview(sweep.name, before, brief=True), *_notes(request, before))
        members = [each.member for each in before if each.resubmittable]
        show_previews(sweep, members, cluster)
        print(f"dry_run: {number_of(len(members), 'member')} would be submitted")
        return DONE
    submission, before, queue_line = submit(request, cluster)
    show(overview(sweep.name, member_statuses(sweep, request.members()), brief=True), *_notes(request, before))
    if submission is None:
        print(f"nothing to submit: {counts(before)}")
        return DONE
    print(f"submitted {number_of(len(submission.members), 'member')} of {sweep.name}: {queue_line}")
    print(f"  hybrid-patch launch status {shlex.quote(sweep.name)}   (or wait, cancel; logs ID)")
    return DONE


def cancel_command(options: CancelOptions) -> int:
    """Cancel a member or a whole sweep: running members save their state first, and `resume` continues them."""
    sweep = next((sweep for sweep in sweeps() if sweep.name == options.name), None)
    members = list(sweep.members().values()) if sweep else []
    if sweep is None:
        sweep, member = find_member(options.name)
        members = [member]
    statuses = member_statuses(sweep, members, patient=True)
    lines = unreached(sweep, cancel_members(sweep, members))
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    if active := sum(each.active for each in statuses) - len(lines):
        cancelled = f"cancelled {number_of(active, 'member')} of {sweep.name}"
        print(f"{cancelled}; what ran has saved its state; resume goes on with it")
    elif not lines:
        print(f"nothing to cancel: {counts(statuses)}")
    return FAILED if lines else DONE


def resume_command(options: ResumeOptions) -> int:
    """Submit again what failed, was stopped or cancelled, or is missing, with the configs of its first submission."""
    sweep = chosen_sweep(options.sweep)
    before = next(reversed(sweep.submissions()), None)
    if before is None and not sweep.damaged_submissions():
        raise InputError(f"{sweep.name}: was never handed to a queue; submit it again")
    if before is None and "cluster" not in map(key_of, options.cluster):
        raise InputError(f"{sweep.name}: the record of its queue is damaged; name one, cluster=local or cluster=slurm")
    extra = chosen_sources(config_dir=options.config_dir).extra
    cluster = read_cluster(options.cluster, extra, before.cluster if before else None)
    queue = queue_of(cluster)
    if not options.dry_run:
        queue.require()
    with sweep.locked():
        statuses = member_statuses(sweep, patient=options.dry_run)
        states = ("failed", "stale", "damaged") if options.failed_only else get_args(State)
        members = [each.member for each in statuses if each.resubmittable and each.state in states]
        if not members:
            print(f"nothing to resume: {counts(statuses)}")
            return DONE
        queue.check(members)
        if cluster.needs_plan and any(member.memory is None for member in members):
            raise InputError("cluster.memory=plan: these members were submitted without a plan; submit them with it")
        if options.dry_run:
            show_previews(sweep, members, cluster, before.cwd if before else None)
            print(f"dry_run: {number_of(len(members), 'member')} would be submitted again")
            return DONE
        code = snapshot_code(sweep.code, cluster.dirty)
        members, unfit = frozen_again(sweep, with_configs(sweep, members, extra), code)
        for reason in unfit:
            print(f"not submitted: {reason}", file=sys.stderr)
        if members:
            sweep.add(members)
            submission, line = hand_over(sweep, members, code, cluster, before.cwd if before else str(Path.cwd()))
            print(f"submitted {number_of(len(submission.members), 'member')} of {sweep.name} again: {line}")
    return FAILED if unfit else DONE


def _requested(options: PlanOptions) -> tuple[Cluster, SweepRequest]:
    sources = chosen_sources(config_dir=options.config_dir)
    cluster = read_cluster(options.cluster, sources.extra)
    return cluster, request_sweep(options.overrides, cluster, sources)


def _notes(request: SweepRequest, statuses: Sequence[MemberStatus]) -> list[str]:
    """Lines about repeated members, and about members begun from another commit."""
    repeated = f"{number_of(request.repeated, 'member')} left out: the same run as one before"
    notes = [repeated] if request.repeated else []
    commit = provenance()["commit"]
    by_commit: dict[str, list[MemberStatus]] = {}
    for each in statuses:
        run = request.sweep.run(each.member.id)
        with suppress(DamagedFileError):
            if each.state != "missing" and run.exists() and (other := run.identity().get("commit")) != commit:
                by_commit.setdefault(str(other), []).append(each)
    for other, members in by_commit.items():
        done = sum(each.state == "done" for each in members)
        notes.append(f"{number_of(len(members), 'member')} begun from another commit, {other[:12]} ({done} done)")
    return notes

"""Sweeps on this machine's slots, or fanned out to SLURM: `python -m launch COMMAND ...`.

  plan OVERRIDES          the members with their ids and states, and what they will take; nothing is started
  submit OVERRIDES        freeze the members, skip what is done or at work, hand the rest to a queue, and return
      cluster=local|slurm, cluster.KEY=VALUE    where they run (conf/cluster/)
      dry_run=true                              say what would be submitted, and stop there
  status [SWEEP] [--watch]     a line per member
  wait [SWEEP]                 until nothing runs or waits any more; Ctrl-C leaves it running
  logs ID [-f]                 what a member said; ID: its beginning or end will do
  cancel ID|SWEEP              members save their state and end; `resume` goes on with them
  resume SWEEP [--failed-only] what failed, was stopped or is missing, once more, as it was frozen
      cluster=..., cluster.KEY=VALUE            elsewhere, or otherwise, than before
      dry_run=true                              say how many, and stop there
  collect SWEEP                metrics and evaluations as one table: collected.csv and .parquet in the sweep's folder
  report SWEEP [KEY=VALUE]     the page of hybrid_patch.report, with its keys: report.html in the sweep's folder

OVERRIDES are those of hybrid_patch.train: groups, values, sweeps (`seed=0,1`, `+sweep=NAME`). SWEEP is a name below
runs/; none: the one submitted last. Exit codes: 0 all well (wait, status: all done), 1 some are not done, 2 bad input.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from rich.console import RenderableType
from rich.table import Table

from hybrid_patch.config.options import wait_briefly
from hybrid_patch.errors import InputError, input_errors_end
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.provenance import provenance
from launch import config
from launch.commands import (
    chosen_sweep,
    collect_command,
    logs_command,
    report_command,
    show,
    split,
    status_command,
    wait_command,
)
from launch.queue import queue_of
from launch.status import Standing, counts, standings
from launch.status_table import WIDEST, labels
from launch.submit import Request, hand_over, judge, other_commits, planned, submit
from launch.sweep import member_named, sweeps


def main() -> NoReturn:
    """The command."""
    words = sys.argv[1:]
    if not words or {"--help", "-h"} & set(words):
        print(__doc__)
        sys.exit(0)
    wait_briefly()
    with input_errors_end(one_line=False):
        command, *arguments = words
        if command not in COMMANDS:
            raise InputError(f"{command}: no such command; takes: {', '.join(COMMANDS)}")
        sys.exit(COMMANDS[command](arguments))


def plan_command(arguments: Sequence[str]) -> int:
    """The members, how they stand, and what they will take."""
    from hybrid_patch.cost.devices import device_named
    from hybrid_patch.cost.plan_report import plan_report
    from hybrid_patch.cost.plan_tables import plan_tables

    own, overrides = config.split(arguments)
    launch = config.read(own)
    request = judge(overrides, launch.cluster)
    found = standings(request.sweep, request.members())
    device = None if launch.cluster.device is None else device_named(launch.cluster.device)
    limit = queue_of(launch.cluster).memory()
    request, costs = planned(request, limit, device)
    show(members_table(request, found), *plan_tables(plan_report(costs, device)), *_notes(request, found))
    return 0


def submit_command(arguments: Sequence[str]) -> int:
    """Freeze and hand over."""
    own, overrides = config.split(arguments)
    launch = config.read(own)
    cluster, queue = launch.cluster, queue_of(launch.cluster)
    request = judge(overrides, cluster)
    queue.check(request.members())
    limit = queue.memory()
    if limit is not None or cluster.device is not None or queue.needs_plan():
        from hybrid_patch.cost.devices import device_named

        request, _ = planned(request, limit, None if cluster.device is None else device_named(cluster.device))
    if launch.dry_run:
        found = standings(request.sweep, request.members())
        todo = sum(each.idle for each in found)
        show(members_table(request, found), *_notes(request, found), f"dry_run: {todo} members would be submitted")
        return 0
    submission, before, said = submit(request, cluster)
    show(members_table(request, standings(request.sweep, request.members())), *_notes(request, before))
    name = shlex.quote(request.sweep.name)
    if submission is None:
        print(f"nothing to submit: {counts(before)}")
    else:
        print(f"submitted {len(submission.members)} members of {request.sweep.name}: {said}")
        print(f"  python -m launch status {name}   (or wait, cancel; logs ID)")
    return 0


def cancel_command(arguments: Sequence[str]) -> int:
    """Let go of a member, or of a whole sweep."""
    _, names = split(arguments, (), 1)
    if not names:
        raise InputError("cancel: give the id of a member, or the name of a sweep")
    known = {sweep.name: sweep for sweep in sweeps()}
    if names[0] in known:
        sweep, wanted = known[names[0]], set(known[names[0]].members())
    else:
        sweep, member = member_named(names[0])
        wanted = {member.id}
    found = standings(sweep, [member for member in sweep.members().values() if member.id in wanted], patient=True)
    for submission in sweep.submissions():
        mine = [member for member in submission.members if member in wanted]
        if mine:
            queue_of(submission.cluster).cancel(sweep, submission, mine)
    going = sum(each.goes_on for each in found)
    if not going:
        print(f"nothing to cancel: {counts(found)}")
        return 0
    print(f"cancelled {going} members of {sweep.name}; what runs saves its state first; resume goes on with it")
    return 0


def resume_command(arguments: Sequence[str]) -> int:
    """What is not done and not at work, once more."""
    own, rest = config.split(arguments)
    flags, names = split(rest, ("--failed-only",), 1)
    sweep = chosen_sweep(names)
    if not sweep.submissions():
        raise InputError(f"{sweep.name}: was never handed to a queue; submit it again")
    before = sweep.submissions()[-1]
    launch = config.read(own, before=before.cluster)
    cluster = launch.cluster
    from launch import snapshot

    with sweep.locked():
        found = standings(sweep)
        failed_only = "--failed-only" in flags
        todo = [each.member for each in found if each.idle and (not failed_only or each.state in ("failed", "stale"))]
        if not todo:
            print(f"nothing to resume: {counts(found)}")
            return 0
        if launch.dry_run:
            print(f"dry_run: {len(todo)} members would be submitted again")
            return 0
        queue = queue_of(cluster)
        queue.check(todo)
        if queue.needs_plan() and any(member.memory is None for member in todo):
            raise InputError("cluster.memory=plan: these members were submitted without a plan; submit them with it")
        frozen = [member for member in todo if RunDirectory(sweep.run(member.id)).exists()]
        if len(frozen) < len(todo):
            raise InputError(f"{sweep.name}: {len(todo) - len(frozen)} members have no directory; submit them again")
        code = snapshot.take(sweep.code, cluster.dirty)
        submission, said = hand_over(sweep, todo, code, cluster, before.cwd)
    print(f"submitted {len(submission.members)} members of {sweep.name} again: {said}")
    return 0


def members_table(request: Request, found: Sequence[Standing]) -> RenderableType:
    """The ids of a request's members and how they stand."""
    label = labels(request.members())
    table = Table(title=f"{request.sweep.name}: {counts(found)}", title_justify="left")
    for column in ("member", "state", "id"):
        table.add_column(column, no_wrap=True, max_width=WIDEST if column == "member" else None)
    for each in found:
        table.add_row(label[each.member.id], each.state, each.member.id)
    return table


def _notes(request: Request, found: Sequence[Standing]) -> list[str]:
    """What else there is to say of a request."""
    notes = []
    if request.repeated:
        notes.append(f"{request.repeated} members are the same run as one before; each runs once")
    begun = [each.member for each in found if each.state != "missing"]
    for commit, members in other_commits(request.sweep, begun, provenance()["commit"]).items():
        done = sum(each.state == "done" for each in found if each.member.id in members)
        notes.append(f"{len(members)} members were begun from another commit, {commit[:12]} ({done} of them are done)")
    return notes


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "plan": plan_command,
    "submit": submit_command,
    "status": status_command,
    "wait": wait_command,
    "logs": logs_command,
    "cancel": cancel_command,
    "resume": resume_command,
    "collect": collect_command,
    "report": report_command,
}


if __name__ == "__main__":
    main()

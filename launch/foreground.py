"""`run`: submit a sweep to this machine's queue, watch it to its end, and cancel it when asked to stop."""

import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hybrid_patch.config.options import Flag, Overrides
from hybrid_patch.config.overrides import key_of
from hybrid_patch.config.sources import chosen_sources
from hybrid_patch.errors import BAD_INPUT, DONE, FAILED, STOPPED, InputError, number_of
from hybrid_patch.runs import failure
from hybrid_patch.runs.stop_signal import STOPPING, StopRequest, stop_requests
from launch.cancel import cancel_members
from launch.commands import ConfigDir, RunOverrides
from launch.config import Local, read_cluster
from launch.queue.choice import queue_of
from launch.queue.local import is_served
from launch.status import MemberStatus, member_statuses
from launch.status_table import Evaluations, labels
from launch.submit import SweepRequest, request_sweep, submit
from launch.sweep import Submission

SHOWN = ("done", "running", "failed", "stopped", "cancelled")
"""States that a member gets a line for when it comes into one."""
POLL = 0.5
"""Seconds between looks at the members, or four times as long as a look takes."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    cluster: Annotated[
        tuple[str, ...],
        Overrides({"cluster.KEY=VALUE": "a value of conf/cluster/local.yaml, as cluster.slots=2"}, groups=("cluster",)),
    ] = ()
    overrides: RunOverrides = ()
    config_path: Annotated[Path | None, Flag("--config-path", "compose configs from here instead of conf/", "DIR")] = (
        None
    )
    config_name: Annotated[str | None, Flag("--config-name", "the primary config (default: config)", "NAME")] = None
    config_dir: ConfigDir = None


def run_here(options: RunOptions) -> int:
    """Run a sweep here and wait for it, one line per member; Ctrl-C stops it with all state saved.

    An invalid member is reported and stops no other. Exit code: 0 all done, 75 stopped with state saved, 2 nothing
    wrong but bad input, 1 anything else.
    """
    chosen = any(key_of(word) == "cluster" for word in options.cluster)
    sources = chosen_sources(options.config_path, options.config_name, options.config_dir)
    cluster = read_cluster(options.cluster if chosen else ["cluster=local", *options.cluster], sources.extra)
    if not isinstance(cluster, Local):
        raise InputError(f"cluster={cluster.name}: run is for this machine; submit hands a sweep to a cluster")
    request = request_sweep(options.overrides, cluster, sources, tolerant=True)
    queue_of(cluster).check(request.members())
    for each in request.invalid:
        print(f"error: {shlex.join(each.arguments)}: {each.error}", file=sys.stderr, flush=True)
    if request.repeated:
        print(f"{number_of(request.repeated, 'member')} left out: the same run as one before", flush=True)
    with stop_requests((*STOPPING, signal.SIGHUP)) as stop:
        submission, _, _ = submit(request, cluster)
        statuses = _watch(request, submission, stop)
    print(_summary(request, statuses))
    code = exit_code(statuses, len(request.invalid), bool(stop))
    if code not in (DONE, BAD_INPUT):
        print(f"the same command goes on; so does hybrid-patch launch resume {shlex.quote(request.sweep.name)}")
    return code


def _watch(request: SweepRequest, submission: Submission | None, stop: StopRequest) -> list[MemberStatus]:
    """Print each member as it starts and ends, until none is active; cancel them after a signal."""
    members, label = request.members(), labels(request.members())
    printed: dict[str, str] = {}
    evaluations, cancelled = Evaluations(), False
    while True:
        began = time.monotonic()
        if stop and not cancelled:
            cancelled = True
            print("stopping: running members save their state first", flush=True)
            cancel_members(request.sweep, members)
        served = submission is not None and is_served(submission)  # asked first: an ended server changes nothing more
        statuses = member_statuses(request.sweep, members)
        evaluating = evaluations.lines(statuses)
        for number, each in enumerate(statuses, start=1):
            id = each.member.id
            if each.state in SHOWN and printed.get(id) != each.state:
                folder = "" if id in printed else f"  {request.sweep.folder / id}"
                printed[id] = each.state
                print(f"[{number}/{len(members)}] {each.state:<9} {label[id]}{folder}", flush=True)
            if id in evaluating:
                print(f"[{number}/{len(members)}] {each.state:<9} {label[id]}: {evaluating[id]}", flush=True)
        if not served and not any(each.active for each in statuses):
            return statuses
        time.sleep(max(POLL, 4 * (time.monotonic() - began)))


def exit_code(statuses: Sequence[MemberStatus], invalid: int, interrupted: bool) -> int:
    """The exit code of a sweep. Unless that was interrupted itself, stopped members beside failed ones are failures."""
    unfinished = [each for each in statuses if each.state != "done"]
    if not unfinished and not invalid:
        return DONE
    stopped = [each for each in unfinished if each.state in ("stopped", "cancelled", "missing")]
    if stopped and (interrupted or (len(stopped) == len(unfinished) and not invalid)):
        return STOPPED
    return BAD_INPUT if all(each.cause == failure.BAD_INPUT for each in unfinished) else FAILED


def _summary(request: SweepRequest, statuses: Sequence[MemberStatus]) -> str:
    lines = []
    for each in statuses:
        state = "not started" if each.state == "missing" else each.state
        reason = f"  ({each.cause + ': ' if each.cause else ''}{each.reason})" if each.reason else ""
        folder = request.sweep.folder / each.member.id
        lines.append(f"{state:<11} {shlex.join(each.member.arguments)}  {folder}{reason}")
    lines += [f"{'bad input':<11} {shlex.join(each.arguments)}  ({each.error})" for each in request.invalid]
    done = sum(each.state == "done" for each in statuses)
    return "\n".join([*lines, f"{done} of {len(lines)} done"])

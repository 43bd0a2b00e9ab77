"""Submit a sweep: judge every member, skip what is done or at work, freeze the rest, and hand it to a queue."""

import os
import shlex
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hybrid_patch.config.compose import Sources, sweep_members
from hybrid_patch.config.frozen import as_yaml
from hybrid_patch.config.recipe import identity
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sweep import Fingerprints, each_config
from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_text
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.provenance import provenance
from launch import snapshot
from launch.config import Cluster, Slurm
from launch.queue import QueueSilentError, queue_of
from launch.status import Standing, standings
from launch.sweep import RUNS, Member, Submission, Sweep

if TYPE_CHECKING:
    from hybrid_patch.cost.predict_sweep import PlannedSweep


class Judged(NamedTuple):
    """A member whose config is good."""

    member: Member
    config: Config
    identity: dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A sweep that was asked for, all of it good; each run once."""

    sweep: Sweep
    judged: list[Judged]
    repeated: int

    def members(self) -> list[Member]:
        """Of the sweep, in order."""
        return [each.member for each in self.judged]


def judge(arguments: Sequence[str], cluster: Cluster) -> Request:
    """Compose and check every member that a command line describes.

    Raises InputError that lists all bad ones, a line each.
    """
    for word in arguments:
        if word.lstrip("+").startswith("run_dir="):
            raise InputError(f"{word}: each member has its own; sweep_name=<name> names their folder")
        if word.startswith("-"):
            raise InputError(f"{word}: no such flag; takes overrides and sweeps, cluster=..., dry_run=true")
    more = [f"runtime.nodes={cluster.nodes}"] if isinstance(cluster, Slurm) and cluster.nodes else []
    lines = [[*line, *more] for line in sweep_members(arguments, Sources())]
    if not lines:
        raise InputError(f"{' '.join(arguments)}: a sweep of no members; one of its keys has no value")
    configs = each_config(lines, Sources())
    bad = [f"{shlex.join(line)}: {each}" for line, each in zip(lines, configs, strict=True) if not _good(each)]
    if bad:
        raise InputError(_listed(f"{len(bad)} of {len(lines)} members are bad, nothing is submitted", bad))
    good = [config for config in configs if isinstance(config, Config)]
    names = list(dict.fromkeys(config.sweep_name for config in good))
    if len(names) > 1:
        raise InputError(f"sweep_name={','.join(names)}: a sweep has one name")
    fingerprint = Fingerprints()
    judged: dict[str, Judged] = {}
    for line, config in zip(lines, good, strict=True):
        what = identity(config, fingerprint)
        judged.setdefault(what["run_id"], Judged(_member(what["run_id"], line, config), config, what))
    return Request(Sweep(RUNS / names[0]), list(judged.values()), len(lines) - len(judged))


def _good(config: Config | InputError) -> bool:
    return isinstance(config, Config)


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)])


def _member(run_id: str, line: Sequence[str], config: Config) -> Member:
    runtime = config.runtime
    return Member(
        id=run_id,
        arguments=tuple(line),
        nodes=runtime.nodes,
        processes=runtime.processes,
        workers=runtime.workers,
        cuda=runtime.device == "cuda",
        memory=None,
    )


def planned(request: Request, limit: int | None, device: Any) -> tuple[Request, "PlannedSweep"]:
    """The same request with the memory that each member needs. Raises InputError for those that cannot fit.

    Args:
        limit: bytes that a process may take; None: not known.
        device: to plan for besides, a `hybrid_patch.cost.devices.Device`; None: none.
    """
    from hybrid_patch.cost.devices import RESERVE
    from hybrid_patch.cost.formatting import format_bytes
    from hybrid_patch.cost.predict_sweep import predict_sweep

    limits = [most for most in (limit, None if device is None else device.memory) if most is not None]
    found = predict_sweep(
        [each.member.arguments for each in request.judged],
        [each.config for each in request.judged],
        growth=device is not None,  # its table tells the largest batch
    )
    bad, judged = [], []
    for each, plan in zip(request.judged, found.runs, strict=True):
        if plan.prediction is None:
            bad.append(f"{each.member.id}: {plan.error}")
            continue
        peak = plan.prediction.peak()
        if limits and peak + RESERVE > min(limits):
            bad.append(
                f"{each.member.id}: a process needs {format_bytes(peak)} and {format_bytes(RESERVE)} for itself, "
                f"and has {format_bytes(min(limits))}; try a smaller trainer.batch_size, data.tile or model"
            )
        judged.append(each._replace(member=replace(each.member, memory=peak)))
    if bad:
        raise InputError(_listed(f"{len(bad)} of {len(request.judged)} members cannot run, nothing is submitted", bad))
    return Request(request.sweep, judged, request.repeated), found


def submit(request: Request, cluster: Cluster) -> tuple[Submission | None, list[Standing], str]:
    """Freeze the members that are neither done nor at work, and hand them to a queue.

    Returns the submission (None: there was nothing to do), how all members stood before it, and a line about the queue.
    Raises InputError if the code's changes are to be refused, or the queue cannot be reached.
    """
    sweep = request.sweep
    with sweep.locked():
        try:
            before = standings(sweep, request.members())
        except QueueSilentError as error:
            raise InputError(f"{error}; what waits there is not known, so nothing was submitted") from None
        todo = [each.member for each in before if each.idle]
        if not todo:
            return None, before, ""
        code = snapshot.take(sweep.code, cluster.dirty)
        judged = {each.member.id: each for each in request.judged}
        record = {**provenance(), "commit": code.commit, "dirty": code.dirty}
        for member in todo:
            _freeze(RunDirectory(sweep.run(member.id)), judged[member.id], record)
        # A job at work reads there what its members need: of those nothing may change.
        known = sweep.members().keys() - {member.id for member in todo}
        sweep.add([member for member in request.members() if member.id not in known])
        submission, said = hand_over(sweep, todo, code, cluster, str(Path.cwd()))
    return submission, before, said


def hand_over(
    sweep: Sweep, members: Sequence[Member], code: snapshot.Snapshot, cluster: Cluster, cwd: str
) -> tuple[Submission, str]:
    """Write a submission down and give it to its queue; frozen members only. Returns it, and a line about the queue.

    Raises InputError if the queue cannot be reached.
    """
    os.sync()  # the members' files were not waited for one by one
    number = max((each.number for each in sweep.submissions()), default=0) + 1
    submission = Submission(
        number=number,
        cluster=cluster,
        code=str(code.folder),
        cwd=cwd,
        members=tuple(member.id for member in members),
        name=f"{sweep.name}-{number}-{uuid.uuid4().hex[:8]}",
    )
    sweep.record(submission)
    return submission, queue_of(cluster).submit(sweep, submission)


def _freeze(run: RunDirectory, judged: Judged, record: dict[str, Any]) -> None:
    """Write the config a member runs with, and what it is; of one that has begun before, what changes no result."""
    run.path.mkdir(parents=True, exist_ok=True)
    text = as_yaml(judged.config)
    if not run.exists():
        run.begin(text, {**judged.identity, **record}, flush=False)
    elif run.config.read_text() != text:
        with run.held():
            write_text(run.config, text)


def other_commits(sweep: Sweep, members: Sequence[Member], commit: str | None) -> dict[str, list[str]]:
    """Members that were begun from another commit, by that commit."""
    found: dict[str, list[str]] = {}
    for member in members:
        run = RunDirectory(sweep.run(member.id))
        if run.exists() and (other := run.identity().get("commit")) != commit:
            found.setdefault(str(other), []).append(member.id)
    return found

"""Submit a sweep: validate its members, skip those done or active, freeze the rest, and hand it to a queue."""

import json
import os
import shlex
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hybrid_patch.config.compose import as_yaml, compose
from hybrid_patch.config.recipe import Identity, identity, read_once
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sources import Sources
from hybrid_patch.config.sweep import each_config, sweep_members
from hybrid_patch.cost.devices import RESERVE, device_named
from hybrid_patch.cost.formatting import format_bytes
from hybrid_patch.cost.least_memory import CLOSE, rough_bytes
from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.provenance import SNAPSHOT, provenance
from hybrid_patch.runs.records import DamagedFileError, read_yaml
from hybrid_patch.runs.sweep_manifest import RUNS
from launch.config import Cluster, Slurm
from launch.queue.choice import queue_of
from launch.queue.interface import QueueSilentError
from launch.snapshot import snapshot_code, snapshot_configs
from launch.status import MemberStatus, member_statuses
from launch.sweep import Submission, Sweep, SweepMember, write_submission

if TYPE_CHECKING:
    from hybrid_patch.cost.devices import Device
    from hybrid_patch.cost.predict import PlannedSweep


class ValidMember(NamedTuple):
    member: SweepMember
    config: Config
    identity: Identity


class InvalidMember(NamedTuple):
    arguments: Sequence[str]
    error: str


@dataclass(frozen=True)
class SweepRequest:
    """A requested sweep.

    Attributes:
        valid: its members, at least one.
        repeated: how many members are the same run as one before.
        config_dir: a folder of the user's own whose config groups they are composed with, too.
    """

    sweep: Sweep
    valid: list[ValidMember]
    invalid: list[InvalidMember]
    repeated: int
    config_dir: Path | None

    def members(self) -> list[SweepMember]:
        return [each.member for each in self.valid]


def request_sweep(
    arguments: Sequence[str], cluster: Cluster, sources: Sources | None = None, tolerant: bool = False
) -> SweepRequest:
    """Compose and check a sweep's members. Raises InputError if none is valid or, unless `tolerant`, if one is not."""
    for word in arguments:
        if word.lstrip("+").startswith("run_dir="):
            raise InputError(f"{word}: each member has its own; sweep_name=<name> names their folder")
    sources = sources or Sources()
    nodes = [f"runtime.nodes={cluster.nodes}"] if isinstance(cluster, Slurm) and cluster.nodes else []
    lines = [[*line, *nodes] for line in sweep_members(arguments, sources)]
    if not lines:
        raise InputError(f"{' '.join(arguments)}: a sweep of no members; one of its keys has no value")
    fingerprint = read_once()
    valid: dict[str, ValidMember] = {}
    invalid = []
    for line, config in zip(lines, each_config(lines, sources), strict=True):
        if isinstance(config, InputError):
            invalid.append(InvalidMember(line, str(config)))
            continue
        run = identity(config, fingerprint)
        member = SweepMember(
            id=run["run_id"],
            arguments=tuple(line),
            nodes=config.runtime.nodes,
            processes=config.runtime.processes,
            workers=config.runtime.workers,
            cuda=config.runtime.device == "cuda",
        )
        valid.setdefault(member.id, ValidMember(member, config, run))
    names = sorted({each.config.sweep_name for each in valid.values()})
    if len(names) > 1:
        raise InputError(f"sweep_name={','.join(names)}: a sweep has one name")
    if invalid and not tolerant and len(lines) > 1:
        errors = [f"{shlex.join(each.arguments)}: {each.error}" for each in invalid]
        raise InputError(f"{len(invalid)} of {len(lines)} members are bad, nothing is submitted:", *errors)
    if not valid:
        raise InputError("; ".join(dict.fromkeys(each.error for each in invalid)))
    repeated = len(lines) - len(invalid) - len(valid)
    return SweepRequest(Sweep(RUNS / names[0]), list(valid.values()), invalid, repeated, sources.extra)


def may_not_fit(request: SweepRequest, memory: int | None) -> bool:
    """Whether a member comes so near to the memory of a process that only a plan can tell if it fits."""
    sizes = [rough_bytes(each.config) + RESERVE for each in request.valid]
    return memory is not None and max(sizes) > CLOSE * memory


def plan_memory(request: SweepRequest, cluster: Cluster) -> tuple[SweepRequest, "PlannedSweep", "Device | None"]:
    """The request with each member's memory, its plan, and `cluster.device`. Raises InputError if one does not fit."""
    from hybrid_patch.cost.predict import predict_sweep

    device = device_named(cluster.device) if cluster.device else None
    sizes = (queue_of(cluster).memory(), device.memory if device else None)
    limits = [size for size in sizes if size is not None]
    configs = [each.config for each in request.valid]
    plan = predict_sweep(configs, growth=device is not None)  # a device's table tells the largest batch
    too_large, valid = [], []
    for each, prediction in zip(request.valid, plan.runs, strict=True):
        if isinstance(prediction, InputError):
            too_large.append(f"{each.member.id}: {prediction}")
            continue
        peak = prediction.peak()
        if limits and peak + RESERVE > min(limits):
            needed, reserve, limit = map(format_bytes, (peak, RESERVE, min(limits)))
            reason = f"a process needs {needed} and {reserve} for itself, and has {limit}"
            too_large.append(f"{each.member.id}: {reason}; try a smaller trainer.batch_size, data.tile or model")
        valid.append(each._replace(member=replace(each.member, memory=peak)))
    if too_large:
        title = f"{len(too_large)} of {len(request.valid)} members cannot run, nothing is submitted:"
        raise InputError(title, *too_large) if len(request.valid) > 1 else InputError(too_large[0])
    return replace(request, valid=valid), plan, device


def submit(request: SweepRequest, cluster: Cluster) -> tuple[Submission | None, list[MemberStatus], str]:
    """Freeze the members that are neither done nor active, and hand them to a queue.

    Returns the submission (None: nothing to do), the status of all members before, and a line about the queue. Raises
    InputError if the code's changes are to be refused, or the queue cannot be reached.
    """
    sweep = request.sweep
    with sweep.locked():
        try:
            before = member_statuses(sweep, request.members())
        except QueueSilentError as error:
            raise InputError(f"{error}; what waits there is not known, so nothing was submitted") from None
        todo = {each.member.id for each in before if each.resubmittable}
        if not todo:
            return None, before, ""
        code = snapshot_code(sweep.code, cluster.dirty)
        record = _record(code)
        frozen = [each for each in request.valid if each.member.id in todo]
        for each in frozen:
            _freeze(sweep.run(each.member.id), each, record)
        members = with_configs(sweep, request.members(), request.config_dir)
        before_that = sweep.members().keys() - todo
        sweep.add([member for member in members if member.id not in before_that])
        members = [member for member in members if member.id in todo]
        submission, line = hand_over(sweep, members, code, cluster, str(Path.cwd()))
    return submission, before, line


def with_configs(sweep: Sweep, members: Sequence[SweepMember], config_dir: Path | None) -> list[SweepMember]:
    """The members with the sweep's own copy of a config folder, which is made; None: as they are."""
    if config_dir is None:
        return list(members)
    name = snapshot_configs(sweep.configs, config_dir).name
    return [replace(member, configs=name) for member in members]


def hand_over(
    sweep: Sweep, members: Sequence[SweepMember], code: Path, cluster: Cluster, cwd: str
) -> tuple[Submission, str]:
    """Give frozen members to a queue. Returns the submission and the queue's line. Raises InputError."""
    os.sync()  # the members' files were not flushed one by one
    submission = next_submission(sweep, members, code, cluster, cwd)
    write_submission(submission)
    return submission, queue_of(cluster).submit(submission)


def next_submission(sweep: Sweep, members: Sequence[SweepMember], code: Path, cluster: Cluster, cwd: str) -> Submission:
    """The record of the submission that comes next; nothing is written."""
    number = max((int(folder.name) for folder in sweep.submission_folders() if folder.name.isdigit()), default=0) + 1
    return Submission(
        folder=sweep.submissions_folder / f"{number:04d}",
        number=number,
        cluster=cluster,
        code=str(code),
        cwd=cwd,
        members=tuple(members),
        name=f"{sweep.name}-{number}-{uuid.uuid4().hex[:8]}",
    )


def frozen_again(sweep: Sweep, members: Sequence[SweepMember], code: Path) -> tuple[list[SweepMember], list[str]]:
    """Freeze anew the members whose config is damaged or gone, where their arguments still give the same run.

    Returns the members that can start, and a line for each of the others.
    """
    record, whole, lines = _record(code), [], []
    for member in members:
        run = sweep.run(member.id)
        try:
            if run.exists() and read_yaml(run.config) is not None:
                whole.append(member)
                continue
            why = f"{run.config}: absent"
        except DamagedFileError as error:
            why = str(error)
        try:
            extra = None if member.configs is None else sweep.configs / member.configs
            config = compose(member.arguments, Sources(extra=extra))
            if (now := identity(config))["run_id"] != member.id:
                raise InputError(f"its arguments give another run now, {now['run_id']}; submit that")
            _freeze(run, ValidMember(member, config, now), record)
            whole.append(member)
        except InputError as error:
            lines.append(f"{member.id}: {why}; {error}")
    return whole, lines


def _record(code: Path) -> dict[str, Any]:
    return {**provenance(), **json.loads((code / SNAPSHOT).read_text())}


def _freeze(run: RunDirectory, valid: ValidMember, record: dict[str, Any]) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    run.begin(as_yaml(valid.config), {**valid.identity, **record}, flush=False)

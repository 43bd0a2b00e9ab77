"""A SLURM cluster as a queue: arrays of jobs, each with one or several members."""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_json, write_text
from hybrid_patch.runs.records import Parser, parser, read_record
from launch.config import Slurm
from launch.queue.interface import Live, Queue, QueueSilentError
from launch.queue.slurm_script import Resources, resources_of, script
from launch.sweep import Submission, SweepMember

T = TypeVar("T")
ARRAYS = "arrays.json"
DEFAULT_ARRAY_LIMIT = 1000
"""Where the site does not tell its own."""
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}
TIMEOUT = 120
"""Seconds that a SLURM command may take."""
OPTIONS = ("SBATCH_", "SLURM_", "SQUEUE_", "SACCT_", "SCANCEL_")
"""Prefixes of variables that would override a script's options, hide jobs, or carry another job's into a new one."""
SITE = ("SLURM_CONF", "SLURM_JWT")
"""Variables that say where the cluster is, and who asks."""


@dataclass(frozen=True)
class Array:
    """An array of jobs: the members of each job, and SLURM's number once it is known."""

    name: str
    groups: list[list[str]]
    job: str | None = None


ARRAYS_OF: Parser[list[Array]] = parser(list[Array])


class SlurmQueue(Queue):
    def __init__(self, cluster: Slurm) -> None:
        self._cluster = cluster

    def check(self, members: Collection[SweepMember]) -> None:
        if shutil.which("sbatch") is None:
            raise InputError("cluster=slurm: there is no sbatch on this machine; submit from a login node")
        for member in members:
            if member.nodes > 1 and (pack := self._cluster.pack) > 1:
                raise InputError(f"cluster.pack={pack}: {member.id} takes {member.nodes} machines; pack=1")

    def memory(self) -> int | None:
        """A member's share of `cluster.memory`."""
        match = re.fullmatch(r"(\d+)([KMGT]?)B?", self._cluster.memory or "", re.IGNORECASE)
        if match is None:
            return None
        power = {"K": 1, "": 2, "M": 2, "G": 3, "T": 4}[match[2].upper()]
        return int(match[1]) * 1024**power // self._cluster.pack

    def submit(self, submission: Submission) -> str:
        """Call sbatch for each array, after recording the arrays under unique names."""
        by_need: dict[Resources, list[str]] = {}
        for member in submission.members:
            by_need.setdefault(resources_of(self._cluster, member), []).append(member.id)
        limit, pack = _array_limit(), self._cluster.pack
        planned = [(need, groups) for need, names in by_need.items() for groups in _chunks(_chunks(names, pack), limit)]
        arrays = [Array(f"{submission.name}-{i}", groups) for i, (_, groups) in enumerate(planned)]
        _write(submission, arrays)
        for i, (need, groups) in enumerate(planned):
            file = submission.folder / f"array-{i}.sh"
            write_text(file, script(submission, i, arrays[i].name, len(groups), need))
            try:
                job = output_of("sbatch", "--parsable", str(file)).strip().partition(";")[0]
            except QueueSilentError as error:
                done = f"{i} of {len(arrays)} arrays are submitted; " if i else "nothing was submitted; "
                raise InputError(f"cluster=slurm: {error}; {done}the same command submits what is missing") from None
            arrays[i] = replace(arrays[i], job=job)
            _write(submission, arrays)
        jobs = sum(len(array.groups) for array in arrays)
        return f"{jobs} jobs in arrays {', '.join(str(array.job) for array in arrays)}"

    def live(self, submissions: Collection[Submission]) -> dict[str, Live]:
        waiting = {each.name: each.waiting() for each in submissions}
        return {member: live for name, group, _, live in _jobs(submissions) for member in waiting[name] & group}

    def verdicts(self, submissions: Collection[Submission]) -> dict[str, str]:
        """The final states of members' jobs: `NODE_FAIL`, `OUT_OF_MEMORY`, `CANCELLED by 0`, ..."""
        verdicts: dict[str, str] = {}
        for array in (array for submission in submissions for array in read_arrays(submission) if array.job):
            states = _job_states(str(array.job))
            for index, group in enumerate(array.groups):
                if index in states:
                    verdicts |= dict.fromkeys(group, states[index])
        return verdicts

    def cancel(self, submission: Submission, members: Collection[str]) -> None:
        """Cancel jobs whose members are all cancelled; leave a marker for a job with others."""
        waiting = submission.waiting()  # as it is before the markers
        numbers = []
        for _, group, number, _ in _jobs([submission]):
            if waiting & group:
                for member in group.intersection(members):
                    submission.mark("cancelled", member)
                if group.issubset(members):
                    numbers.append(number)
        for part in _chunks(numbers, 500):
            output_of("scancel", *part)


def _jobs(submissions: Collection[Submission]) -> Iterator[tuple[str, set[str], str, Live]]:
    """The jobs that wait or run: their submission's name, members and number. Raises QueueSilentError."""
    arrays = {array.name: (each.name, array.groups) for each in submissions for array in read_arrays(each)}
    squeue = ("squeue", "--all", "--noheader", "--array", "--format=%j|%F|%K|%T")
    for line in output_of(*squeue).splitlines() if arrays else ():
        name, number, index, state = line.strip().rsplit("|", 3)
        if name in arrays and index.isdigit() and state in WAITING | RUNNING:
            submission, groups = arrays[name]
            yield submission, set(groups[int(index)]), f"{number}_{index}", "running" if state in RUNNING else "waiting"


def has_jobs(folder: Path) -> bool:
    """Whether jobs of a submission wait or run, by their names in a folder. Raises QueueSilentError."""
    names = {array.name for array in _arrays_in(folder)}
    return not names.isdisjoint(output_of("squeue", "--all", "--noheader", "--format=%j").split())


def read_arrays(submission: Submission) -> list[Array]:
    return _arrays_in(submission.folder)


def _arrays_in(folder: Path) -> list[Array]:
    return read_record(folder / ARRAYS, ARRAYS_OF) or []


def _write(submission: Submission, arrays: Sequence[Array]) -> None:
    write_json(submission.folder / ARRAYS, [asdict(array) for array in arrays])


def _chunks(items: list[T], size: int) -> list[list[T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _array_limit() -> int:
    """The largest number of jobs in an array: indices are below the site's MaxArraySize."""
    try:
        config = output_of("scontrol", "show", "config")
    except QueueSilentError as error:
        raise InputError(f"cluster=slurm: {error}; nothing was submitted") from None
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    return max(int(match[1]), 1) if match else DEFAULT_ARRAY_LIMIT


def _job_states(job: str) -> dict[int, str]:
    """The state of each job of an array by its index, from sacct if there is one, else from scontrol."""
    ways = {
        ("sacct", "-n", "-P", "-X", "-j", job, "-o", "JobID,State"): r"(?m)^\d+_(\d+)\|(.+)$",
        ("scontrol", "show", "job", "-o", job): r"ArrayTaskId=(\d+) .*?JobState=(\S+)",
    }
    for command, pattern in ways.items():
        with suppress(QueueSilentError):  # it is not there, or has forgotten the job after MinJobAge
            if states := {int(index): state for index, state in re.findall(pattern, output_of(*command))}:
                return states
    return {}


def output_of(*command: str) -> str:
    """The output of a SLURM command, called without `OPTIONS`. Raises QueueSilentError if it fails."""
    plain = {name: value for name, value in os.environ.items() if name in SITE or not name.startswith(OPTIONS)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=plain, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueSilentError(f"{command[0]}: {error}") from None
    if done.returncode:
        raise QueueSilentError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout

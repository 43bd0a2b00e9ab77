"""A SLURM cluster as a queue: arrays of jobs, each with one member or a few."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_json, write_text
from launch.config import Slurm
from launch.queue import Live, QueueSilentError
from launch.queue.markers import leave, let_go
from launch.queue.slurm_script import Resources, resources_of, script
from launch.sweep import Member, Submission, Sweep

T = TypeVar("T")
ARRAYS = "arrays.json"
FORMER_LIMIT = 1000
"""Jobs in an array where the site does not say its limit."""
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}
SECONDS = 120
"""How long a command of SLURM's may take."""


@dataclass(frozen=True)
class Array:
    """An array of jobs: the members of each, and SLURM's number, once it is known."""

    name: str
    groups: list[list[str]]
    job: str | None = None


class SlurmQueue:
    """The cluster that sbatch talks to."""

    def __init__(self, cluster: Slurm) -> None:
        self._cluster = cluster

    def check(self, members: Collection[Member]) -> None:
        """Raises InputError without SLURM's commands, and for members that cannot be packed."""
        if shutil.which("sbatch") is None:
            raise InputError("cluster=slurm: there is no sbatch on this machine; submit from a login node")
        for member in members:
            if member.nodes > 1 and self._cluster.pack > 1:
                raise InputError(
                    f"cluster.pack={self._cluster.pack}: {member.id} takes {member.nodes} machines; pack=1"
                )

    def memory(self) -> int | None:
        """Of `cluster.memory`, what a member has."""
        found = re.fullmatch(r"(\d+)([KMGT]?)B?", self._cluster.memory or "", re.IGNORECASE)
        if found is None:
            return None
        power = {"K": 1, "": 2, "M": 2, "G": 3, "T": 4}[found[2].upper()]
        return int(found[1]) * 1024**power // self._cluster.pack

    def needs_plan(self) -> bool:
        """Whether `cluster.memory=plan`."""
        return self._cluster.memory == "plan"

    def submit(self, sweep: Sweep, submission: Submission) -> str:
        """One sbatch for each array. What shall be submitted is written down before, under a name of its own."""
        place = sweep.place(submission)
        members = sweep.members()
        arrays: list[Array] = []
        needs: list[Resources] = []
        most = _array_limit()
        for need, names in self._by_need([members[name] for name in submission.members]).items():
            groups = _cut(names, self._cluster.pack)
            for part in _cut(groups, most):
                arrays.append(Array(f"{submission.name}-{len(arrays)}", part))
                needs.append(need)
        _write(place, arrays)
        for i, (array, need) in enumerate(zip(arrays, needs, strict=True)):
            file = place / f"array-{i}.sh"
            write_text(file, script(self._cluster, submission, place, i, array.name, len(array.groups), need))
            try:
                job = _said("sbatch", "--parsable", str(file)).strip().partition(";")[0]
            except QueueSilentError as error:
                done = f"{i} of {len(arrays)} arrays are submitted; " if i else "nothing was submitted; "
                raise InputError(f"cluster=slurm: {error}; {done}the same command submits what is missing") from None
            arrays[i] = replace(array, job=job)
            _write(place, arrays)
        jobs = sum(len(array.groups) for array in arrays)
        return f"{jobs} jobs in arrays {', '.join(str(array.job) for array in arrays)}"

    def _by_need(self, members: Sequence[Member]) -> dict[Resources, list[str]]:
        found: dict[Resources, list[str]] = {}
        for member in members:
            found.setdefault(resources_of(self._cluster, member), []).append(member.id)
        return found

    def live(self, sweep: Sweep, submissions: Collection[Submission]) -> dict[str, Live]:
        """The members of jobs that wait or run. Raises QueueSilentError if SLURM does not answer."""
        groups = {}
        for each in submissions:
            place = sweep.place(each)
            gone = let_go(place)
            for array in read_arrays(place):
                groups[array.name] = [[member for member in group if member not in gone] for group in array.groups]
        found: dict[str, Live] = {}
        if not groups:
            return found
        for line in _said("squeue", "--all", "--noheader", "--array", "--format=%j|%K|%T").splitlines():
            name, index, state = line.strip().rsplit("|", 2)
            if name in groups and index.isdigit() and state in WAITING | RUNNING:
                for member in groups[name][int(index)]:
                    found[member] = "running" if state in RUNNING else "waiting"
        return found

    def verdicts(self, sweep: Sweep, submissions: Collection[Submission]) -> dict[str, str]:
        """What SLURM says became of members' jobs: `NODE_FAIL`, `OUT_OF_MEMORY`, `CANCELLED by 0`, ..."""
        found: dict[str, str] = {}
        for submission in submissions:
            for array in read_arrays(sweep.place(submission)):
                for index, state in _job_states(array.job).items() if array.job else ():
                    for member in array.groups[index] if index < len(array.groups) else ():
                        found[member] = state
        return found

    def cancel(self, sweep: Sweep, submission: Submission, members: Collection[str]) -> None:
        """Cancel jobs all of whose members are; in a job with others, leave a word for it."""
        place = sweep.place(submission)
        live = self.live(sweep, [submission])  # as it is before the words
        for array in read_arrays(place):
            tasks = []
            for index, group in enumerate(array.groups):
                if not live.keys() & set(group):
                    continue
                if set(group) <= set(members):
                    tasks.append(index)
                for member in set(group) & set(members):
                    leave(place, "cancelled", member)
            if tasks and array.job is None:  # its number was never heard: the submitting process was killed
                _said("scancel", f"--name={array.name}")
            for part in _cut([f"{array.job}_{index}" for index in tasks], 500) if array.job is not None else ():
                _said("scancel", *part)


def read_arrays(place: Path) -> list[Array]:
    """The arrays of a submission."""
    file = place / ARRAYS
    return [Array(**row) for row in json.loads(file.read_text())] if file.exists() else []


def _write(place: Path, arrays: Sequence[Array]) -> None:
    write_json(place / ARRAYS, [asdict(array) for array in arrays])


def _cut(items: list[T], size: int) -> list[list[T]]:
    """In pieces of a size; the last may be smaller."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def _array_limit() -> int:
    """Jobs in an array: indices are below the site's MaxArraySize."""
    try:
        said = _said("scontrol", "show", "config")
    except QueueSilentError as error:
        raise InputError(f"cluster=slurm: {error}; nothing was submitted") from None
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return max(int(found[1]), 1) if found else FORMER_LIMIT


def _job_states(job: str) -> dict[int, str]:
    """The state of each job of an array, by its index: of sacct if there is one, else of scontrol."""
    try:
        rows = _said("sacct", "-n", "-P", "-X", "-j", job, "-o", "JobID,State").splitlines()
        pairs = [row.split("|") for row in rows]
        known = {int(name.rpartition("_")[2]): state for name, state in pairs if name.rpartition("_")[2].isdigit()}
        if known:
            return known
    except QueueSilentError:
        pass
    try:
        said = _said("scontrol", "show", "job", "-o", job)
    except QueueSilentError:  # forgotten, after MinJobAge
        return {}
    found = re.findall(r"ArrayTaskId=(\d+) .*?JobState=(\S+)", said)
    return {int(index): state for index, state in found}


def _said(*command: str) -> str:
    """What a command of SLURM's says. Raises QueueSilentError if it fails."""
    # What a person has set for their own looks at the queue (SQUEUE_STATES, ...) would hide jobs here.
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SACCT_"))}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=plain, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueSilentError(f"{command[0]}: {error}") from None
    if done.returncode:
        raise QueueSilentError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout

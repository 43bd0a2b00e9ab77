"""A SLURM cluster as a queue: arrays of jobs, each with one or several members."""

import logging
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from hybrid_patch.errors import InputError, number_of
from hybrid_patch.runs.atomic_files import write_json, write_text
from hybrid_patch.runs.records import DamagedFileError, Parser, parser, read_record
from launch.config import Slurm
from launch.queue.interface import ArrayPreview, Live, Queue, QueueSilentError
from launch.queue.slurm_command import output_of
from launch.queue.slurm_script import array_preview, chunks, planned_arrays, script
from launch.sweep import Submission, SweepMember, warn_once

log = logging.getLogger(__name__)
ARRAYS = "arrays.json"
DEFAULT_ARRAY_LIMIT = 1000
"""Where the site does not tell its own."""
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}
FORGOTTEN = "forgotten: SLURM's controller has lost its state"
LOST = ("NODE_FAIL", "BOOT_FAIL", FORGOTTEN)
"""Ends of jobs that never began, for which neither their members nor anybody else is to blame."""
JOB = r"(?m)^\s*(\S+)\|(\d+)\|(\d+)\|([A-Z_]+)\s*$"
"""A line of squeue: a job's name, its array's number, its index and its state."""
ENDS: dict[str, str] = {}
"""The final states of jobs, by their numbers, that this process has asked for and has not seen in the queue since."""


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

    def require(self) -> None:
        if shutil.which("sbatch") is None:
            raise InputError("cluster=slurm: there is no sbatch on this machine; submit from a login node")

    def check(self, members: Collection[SweepMember]) -> None:
        for member in members:
            if member.nodes > 1 and (pack := self._cluster.pack) > 1:
                raise InputError(f"cluster.pack={pack}: {member.id} takes {member.nodes} machines; pack=1")
        if self._cluster.container and self._cluster.pack > 1:
            raise InputError(
                f"cluster.pack={self._cluster.pack}: srun makes the containers, and gives each all of the job's GPUs; "
                "try pack=1, or cluster.apptainer"
            )

    def memory(self) -> int | None:
        """A member's share of `cluster.memory`."""
        match = re.fullmatch(r"(\d+)([KMGT]?)B?", self._cluster.memory or "", re.IGNORECASE)
        if match is None:
            return None
        power = {"K": 1, "": 2, "M": 2, "G": 3, "T": 4}[match[2].upper()]
        return int(match[1]) * 1024**power // self._cluster.pack

    def submit(self, submission: Submission) -> str:
        arrays = self._submit_arrays(submission, submission.ids)
        jobs = sum(len(array.groups) for array in arrays)
        numbers = ", ".join(str(array.job) for array in arrays)
        return f"{number_of(jobs, 'job')} in {number_of(len(arrays), 'array')}: {numbers}"

    def _submit_arrays(self, submission: Submission, names: Collection[str]) -> list[Array]:
        """Call sbatch for each array of these members, after recording the arrays under unique names."""
        members = [member for member in submission.members if member.id in names]
        planned = planned_arrays(self._cluster, members, _array_limit())
        arrays = read_arrays(submission)
        first = len(arrays)
        arrays += [Array(f"{submission.name}-{first + i}", array.groups) for i, array in enumerate(planned)]
        _write(submission, arrays)
        for i, array in enumerate(planned, start=first):
            file = submission.folder / f"array-{i}.sh"
            write_text(file, script(submission, i, arrays[i].name, len(array.groups), array.need))
            try:
                job = _job_number(output_of("sbatch", "--parsable", str(file)), arrays[i].name)
            except QueueSilentError as error:
                done = f"{i - first} of {len(planned)} arrays are submitted" if i > first else "nothing was submitted"
                raise InputError(f"cluster=slurm: {error}; {done}; the same command submits what is missing") from None
            arrays[i] = replace(arrays[i], job=job)
            _write(submission, arrays)
        return arrays[first:]

    def preview(self, submission: Submission) -> list[ArrayPreview]:
        """The arrays, of at most as many jobs as the site allows or, where it does not answer, as SLURM does."""
        limit = DEFAULT_ARRAY_LIMIT
        with suppress(InputError):
            limit = _array_limit()
        planned = planned_arrays(self._cluster, submission.members, limit)
        return [array_preview(submission, i, f"{submission.name}-{i}", array) for i, array in enumerate(planned)]

    def live(self, submissions: Collection[Submission]) -> dict[str, Live]:
        """Members of jobs that wait or run. Markers `ended` tell of this start of a job only between its first and last
        moments, when it has marked its members as begun."""
        marked = {each.name: (each.marked("cancelled"), _ended(each)) for each in submissions}
        live: dict[str, Live] = {}
        for job in _jobs(submissions):
            ENDS.pop(job.number, None)  # SLURM has started it again
            cancelled, ended = marked[job.submission]
            here = job.group - cancelled - (ended if job.runs else set())
            live |= dict.fromkeys(here, "running" if job.state in RUNNING else "waiting")
        return live

    def verdicts(self, submission: Submission, members: Collection[str]) -> dict[str, str]:
        """The last states of members' jobs: `NODE_FAIL`, `OUT_OF_MEMORY`, `CANCELLED by 0`, ..., or FORGOTTEN."""
        with suppress(DamagedFileError):  # said by `live`
            return _verdicts(read_arrays(submission), members, ENDS)
        return {}

    def put_back(self, submission: Submission, members: Collection[str]) -> list[str]:
        """Submit lost members again, within the submission: its retries count on.

        Lost are those whose job began them or was forgotten, unless somebody has cancelled it.
        """
        try:
            arrays = read_arrays(submission)
        except DamagedFileError:  # resume makes a new submission
            return []
        begun, verdicts = submission.marked("begun"), _verdicts(arrays, members, {})
        starts = Counter(member for array in arrays for group in array.groups for member in group)
        lost = [
            member
            for member in members
            if starts[member] <= self._cluster.retries.lost
            and (member in begun or verdicts.get(member) in LOST)
            and not verdicts.get(member, "").startswith("CANCELLED")
        ]
        for member in lost:
            submission.unmark("begun", member)
        if lost:
            self._submit_arrays(submission, lost)
        return lost

    def cancel(self, submission: Submission) -> None:
        """Cancel jobs with no other members; others, and orphans, read the markers."""
        cancelled, ended = submission.marked("cancelled"), _ended(submission)
        jobs = [job for job in _jobs([submission]) if job.group <= (cancelled | ended if job.runs else cancelled)]
        for part in chunks([job.number for job in jobs], 500):
            output_of("scancel", *part)


def _ended(submission: Submission) -> set[str]:
    """The members that a job has ended with while it goes on with others."""
    return submission.marked("ended") & submission.marked("begun")


class Job(NamedTuple):
    """A job that waits or runs, by its number and the name of its submission."""

    submission: str
    group: set[str]
    number: str
    state: str

    @property
    def runs(self) -> bool:
        """Whether its processes may be at work, and it is not about to end or to wait again."""
        return self.state in RUNNING - {"COMPLETING"}


def _jobs(submissions: Collection[Submission]) -> Iterator[Job]:
    """The jobs that wait or run. Raises QueueSilentError."""
    groups: dict[str, tuple[str, list[list[str]]]] = {}
    damaged: dict[str, Submission] = {}
    for each in submissions:
        try:
            groups |= {array.name: (each.name, array.groups) for array in read_arrays(each)}
        except DamagedFileError as error:
            warn_once(str(error.with_remedy("its jobs count for all of its members")))
            damaged[each.name] = each
    squeue = ("squeue", "--all", "--noheader", "--array", "--format=%j|%F|%K|%T")
    rows = re.findall(JOB, output_of(*squeue)) if groups or damaged else []
    for name, number, index, state in rows:
        if state not in WAITING | RUNNING:
            continue
        if name in groups:
            submission, of_array = groups[name]
            yield Job(submission, set(of_array[int(index)]), f"{number}_{index}", state)
        elif whole := damaged.get(name.rpartition("-")[0]):
            yield Job(whole.name, set(whole.ids), f"{number}_{index}", state)


def _job_number(answer: str, name: str) -> str | None:
    """The number in sbatch's answer, whatever a site prints beside it, or else in squeue's; None: not known.

    A job that has no number here is known by its name.
    """
    if numbers := re.findall(r"(?m)^(?:Submitted batch job )?(\d+)(?:;\S+)?\s*$", answer):
        return numbers[-1]
    with suppress(QueueSilentError):
        listing = output_of("squeue", "--all", "--noheader", f"--name={name}", "--format=number %F")
        if numbers := re.findall(r"(?m)^number (\d+)\s*$", listing):
            return numbers[0]
    log.warning("sbatch printed no number of a job, and squeue has none by the name %s: %r", name, answer[:200])
    return None


def has_jobs(folder: Path) -> bool:
    """Whether jobs of a submission wait or run, by their names in a folder. Raises QueueSilentError."""
    names = {array.name for array in _arrays_in(folder)}
    return not names.isdisjoint(output_of("squeue", "--all", "--noheader", "--format=%j").split())


def read_arrays(submission: Submission) -> list[Array]:
    """The arrays of a submission; none before it is handed over. Raises DamagedFileError."""
    return _arrays_in(submission.folder)


def _arrays_in(folder: Path) -> list[Array]:
    return read_record(folder / ARRAYS, ARRAYS_OF) or []


def _write(submission: Submission, arrays: Sequence[Array]) -> None:
    write_json(submission.folder / ARRAYS, [asdict(array) for array in arrays])


def _array_limit() -> int:
    """The largest number of jobs in an array: indices are below the site's MaxArraySize."""
    try:
        config = output_of("scontrol", "show", "config")
    except QueueSilentError as error:
        raise InputError(f"cluster=slurm: {error}; nothing was submitted") from None
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    return max(int(match[1]), 1) if match else DEFAULT_ARRAY_LIMIT


def _verdicts(arrays: Sequence[Array], members: Collection[str], ends: dict[str, str]) -> dict[str, str]:
    """The states of members' jobs; the final ones are put into `ends`, and those that it has are not asked for."""
    verdicts: dict[str, str] = {}
    for array in arrays:
        groups = {i: group for i, group in enumerate(array.groups) if array.job and not set(members).isdisjoint(group)}
        if any(f"{array.job}_{i}" not in ends for i in groups):
            states = _job_states(array)
            passing = {i for i, state in states.items() if state.split()[0] in WAITING | RUNNING or state == FORGOTTEN}
            ends |= {f"{array.job}_{i}": states[i] for i in states.keys() - passing}
        else:
            states = {i: ends[f"{array.job}_{i}"] for i in groups}
        for i in groups.keys() & states.keys():
            verdicts |= dict.fromkeys(groups[i], states[i])
    return verdicts


def _job_states(array: Array) -> dict[int, str]:
    """The state of each job of an array by its index, from sacct if there is one, else from scontrol.

    A bare CANCELLED of sacct is no person's: the controller came back without its state, and took the job for gone.
    """
    job, name = str(array.job), re.escape(array.name)
    ways = {
        ("sacct", "-n", "-P", "-X", "-j", job, "-o", "JobID,JobName,State"): rf"(?m)^\d+_(\d+)\|{name}\|(.+)$",
        ("scontrol", "show", "job", "-o", job): rf"ArrayTaskId=(\d+) .*?JobName={name} .*?JobState=(\S+)",
        ("scontrol", "show", "config"): r"NEXT_JOB_ID\s*=\s*()(\d+)",
    }
    states: dict[int, str] = {}
    for command, pattern in ways.items():
        if len(states) < len(array.groups):
            with suppress(QueueSilentError):  # it is not there, or has forgotten the job after MinJobAge
                rows = re.findall(pattern, output_of(*command))
                if command[-1] == "config" and rows and int(rows[0][1]) <= int(job):  # it is given away once more
                    rows = [(index, FORGOTTEN) for index in range(len(array.groups))]
                bare = command[0] == "sacct"
                states |= {
                    int(index): state
                    for index, state in rows
                    if index != "" and int(index) not in states and not (bare and state == "CANCELLED")
                }
    return states

"""A sweep on disk: its members, and what was submitted when.

runs/<sweep>/launch/manifest.json            the members: id, arguments, resources
runs/<sweep>/launch/code/<tree>/             the code at the time of a submission
runs/<sweep>/launch/submissions/<number>/    submission.json, and the queue's files
runs/<sweep>/<run id>/                       the runs
"""

import dataclasses
import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_json
from launch.config import CLUSTER, Cluster

RUNS = Path("runs")
FOLDER = "launch"
"""The folder of launch's files in a sweep, beside its runs."""


@dataclass(frozen=True, kw_only=True)
class SweepMember:
    """A run of a sweep.

    Attributes:
        id: the run id.
        arguments: its command line, for display; the run itself starts from its frozen config.
        nodes, processes: machines, and processes on each.
        workers: data loading processes of each process.
        cuda: whether it asks for GPUs.
        memory: planned bytes of a process at its peak; None: not planned.
    """

    id: str
    arguments: tuple[str, ...]
    nodes: int
    processes: int
    workers: int
    cuda: bool
    memory: int | None


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Members that were handed to a queue together.

    Attributes:
        number: within the sweep, from 1.
        cluster: where they run.
        code: the folder that they import the code from.
        cwd: the folder they run in, which relative paths in their configs refer to.
        members: their ids, in order.
        name: of the jobs; unique across machines.
    """

    number: int
    cluster: Cluster
    code: str
    cwd: str
    members: tuple[str, ...]
    name: str


class Sweep:
    """The folder `runs/<name>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.name = self.folder.name
        self.launch_folder = self.folder / FOLDER
        self.code = self.launch_folder / "code"
        self._manifest = self.launch_folder / "manifest.json"
        self._submissions = self.launch_folder / "submissions"

    def exists(self) -> bool:
        """Whether anything was ever submitted here."""
        return self._manifest.exists()

    def run(self, member: str) -> Path:
        """A member's run directory."""
        return self.folder / member

    def members(self) -> dict[str, SweepMember]:
        """All members that were ever submitted, by id, in order."""
        if not self.exists():
            return {}
        rows = json.loads(self._manifest.read_text())["members"]
        return {row["id"]: SweepMember(**{**row, "arguments": tuple(row["arguments"])}) for row in rows}

    def add(self, members: Sequence[SweepMember]) -> None:
        """Put members into the manifest, in place of former entries of the same id."""
        entries = self.members() | {member.id: member for member in members}
        write_json(self._manifest, {"members": [dataclasses.asdict(member) for member in entries.values()]})

    def submissions(self) -> list[Submission]:
        """All submissions, oldest first."""
        return [read_submission(path.parent) for path in sorted(self._submissions.glob("*/submission.json"))]

    def submission_folder(self, submission: Submission) -> Path:
        """The folder of a submission."""
        return self._submissions / f"{submission.number:04d}"

    def record(self, submission: Submission) -> None:
        """Write a new submission to the disk."""
        plain = {**dataclasses.asdict(submission), "cluster": CLUSTER.dump_python(submission.cluster, mode="json")}
        write_json(self.submission_folder(submission) / "submission.json", plain)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One submission at a time. Raises InputError during another one."""
        self.launch_folder.mkdir(parents=True, exist_ok=True)
        with (self.launch_folder / ".lock").open("a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise InputError(f"sweep {self.name}: is being submitted by another process; try again") from None
            yield


def read_submission(folder: Path) -> Submission:
    """The submission of a folder."""
    plain: dict[str, Any] = json.loads((folder / "submission.json").read_text())
    plain["cluster"] = CLUSTER.validate_json(json.dumps(plain["cluster"]))
    return Submission(**{**plain, "members": tuple(plain["members"])})


def sweep_of(submission_folder: Path) -> Sweep:
    """The sweep that the folder of a submission belongs to."""
    return Sweep(submission_folder.absolute().parents[2])


def sweeps() -> list[Sweep]:
    """All sweeps that were submitted from the current folder."""
    return [Sweep(path.parents[1]) for path in sorted(RUNS.glob(f"*/{FOLDER}/manifest.json"))]


def chosen_sweep(name: str | None) -> Sweep:
    """The sweep of a name or a path; None: the one submitted last. Raises InputError if there is none."""
    submitted = sweeps()
    if name is None:
        if not submitted:
            raise InputError("no sweep was submitted from here; see --help")
        return max(submitted, key=_last_submitted)
    sweep = Sweep(Path(name) if "/" in name else RUNS / name)
    if not sweep.exists():
        names = ", ".join(each.name for each in submitted) or "none"
        raise InputError(f"{name}: no sweep of that name was submitted from here; there are: {names}")
    return sweep


def _last_submitted(sweep: Sweep) -> float:
    return max((sweep.submission_folder(each).stat().st_mtime for each in sweep.submissions()), default=0)


def find_member(name: str) -> tuple[Sweep, SweepMember]:
    """The member whose id begins or ends with `name`, which may be `sweep/id`.

    Raises InputError if there is none, or more than one.
    """
    sweep_name, _, member_name = name.rpartition("/")
    matches = [
        (sweep, member)
        for sweep in sweeps()
        if sweep_name in ("", sweep.name)
        for member in sweep.members().values()
        if member.id.startswith(member_name) or member.id.endswith(member_name)
    ]
    matches = [match for match in matches if match[1].id == member_name] or matches
    if len(matches) != 1:
        several = ", ".join(f"{sweep.name}/{member.id}" for sweep, member in matches[:5])
        reason = f"could be {several}; give more of it" if matches else "no member of a sweep has such an id"
        raise InputError(f"{name}: {reason}")
    return matches[0]

"""A sweep on disk: its members, and what was submitted when.

runs/<sweep>/launch/manifest.json            the members: id, arguments, what each needs
runs/<sweep>/launch/code/<tree>/             the code as it was at a submission
runs/<sweep>/launch/submissions/<number>/    submission.json, and what its queue keeps
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
OWN = "launch"
"""The folder of a sweep's own files, among its runs."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run of a sweep.

    Attributes:
        id: the run id.
        arguments: of its command line, for people; the run itself starts from its frozen config.
        nodes, processes: machines, and processes on each.
        workers: loading processes of each process.
        cuda: whether it asks for GPUs.
        memory: bytes that a process needs at its peak, as planned; None: not planned.
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
        cwd: the folder they run in: relative paths in their configs mean this.
        members: their ids, in order.
        name: of the jobs; no other submission on any machine has it.
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
        self.own = self.folder / OWN
        self.code = self.own / "code"
        self._manifest = self.own / "manifest.json"
        self._submissions = self.own / "submissions"

    def exists(self) -> bool:
        """Whether anything was ever submitted here."""
        return self._manifest.exists()

    def run(self, member: str) -> Path:
        """A member's run directory."""
        return self.folder / member

    def members(self) -> dict[str, Member]:
        """All members that were ever submitted, by id, in order."""
        if not self.exists():
            return {}
        rows = json.loads(self._manifest.read_text())["members"]
        return {row["id"]: Member(**{**row, "arguments": tuple(row["arguments"])}) for row in rows}

    def add(self, members: Sequence[Member]) -> None:
        """Put members into the manifest; one that is there already gets what is said of it now."""
        known = self.members() | {member.id: member for member in members}
        write_json(self._manifest, {"members": [dataclasses.asdict(member) for member in known.values()]})

    def submissions(self) -> list[Submission]:
        """All submissions, oldest first."""
        return [read_submission(path.parent) for path in sorted(self._submissions.glob("*/submission.json"))]

    def place(self, submission: Submission) -> Path:
        """The folder of a submission."""
        return self._submissions / f"{submission.number:04d}"

    def record(self, submission: Submission) -> None:
        """Write a new submission down."""
        plain = {**dataclasses.asdict(submission), "cluster": CLUSTER.dump_python(submission.cluster, mode="json")}
        write_json(self.place(submission) / "submission.json", plain)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One submission at a time. Raises InputError if another is at it."""
        self.own.mkdir(parents=True, exist_ok=True)
        with (self.own / ".lock").open("a+") as file:
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


def sweep_of(folder: Path) -> Sweep:
    """The sweep that the folder of a submission belongs to."""
    return Sweep(folder.absolute().parents[2])


def sweep_named(name: str) -> Sweep:
    """The sweep of a name, or of a path. Raises InputError if nothing was ever submitted under it."""
    sweep = Sweep(Path(name) if "/" in name else RUNS / name)
    if not sweep.exists():
        known = sorted(path.parents[1].name for path in RUNS.glob(f"*/{OWN}/manifest.json"))
        raise InputError(
            f"{name}: no sweep of that name was submitted from here; there are: {', '.join(known) or 'none'}"
        )
    return sweep


def sweeps() -> list[Sweep]:
    """All sweeps that were submitted from this folder."""
    return [Sweep(path.parents[1]) for path in sorted(RUNS.glob(f"*/{OWN}/manifest.json"))]


def member_named(name: str) -> tuple[Sweep, Member]:
    """The member whose id begins or ends with a name, which may be `sweep/id`. Raises InputError if there is none, or
    more than one."""
    whole, (of, _, name) = name, name.rpartition("/")
    found = [
        (sweep, member)
        for sweep in sweeps()
        if of in ("", sweep.name)
        for member in sweep.members().values()
        if member.id == name or member.id.startswith(name) or member.id.endswith(name)
    ]
    exact = [pair for pair in found if pair[1].id == name]
    found = exact or found
    if len(found) != 1:
        several = ", ".join(f"{sweep.name}/{member.id}" for sweep, member in found[:5])
        what = f"could be {several}; give more of it" if found else "no member of a sweep has such an id"
        raise InputError(f"{whole}: {what}")
    return found[0]

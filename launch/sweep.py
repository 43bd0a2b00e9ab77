"""A sweep on disk: its members, and what was submitted when (docs/launch.md lists the files)."""

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_json
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.records import DamagedFileError, Parser, parsed, parser, read_record, set_aside
from hybrid_patch.runs.sweep_manifest import MANIFEST, RUNS, SUBMISSION, SUBMISSIONS, path_by_id, sweep_folder
from launch.config import Cluster

log = logging.getLogger(__name__)
Marker = Literal["cancelled", "begun", "ended"]
"""cancelled: asks the queue to drop the member; begun, ended: left by a job when it starts, or is done with it."""


@dataclass(frozen=True, kw_only=True)
class SweepMember:
    """A run of a sweep, by its run id.

    Attributes:
        arguments: its command line, for display; the run itself starts from its frozen config.
        nodes, processes, workers: machines, processes on each, and data loading processes of each process.
        memory: planned bytes of a process at its peak; None: not planned.
        configs: the sweep's copy of the config folder of the user's own that the arguments were composed with, by name.
    """

    id: str
    arguments: tuple[str, ...]
    nodes: int
    processes: int
    workers: int
    cuda: bool
    memory: int | None = None
    configs: str | None = None


@dataclass(frozen=True)
class Manifest:
    members: tuple[SweepMember, ...]


MANIFEST_OF: Parser[Manifest] = parser(Manifest)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Members that were handed to a queue together.

    Attributes:
        number: within the sweep, from 1.
        code, cwd: the folders that they import the code from, and run in.
        name: of the jobs; unique across machines.
    """

    folder: Path
    number: int
    cluster: Cluster
    code: str
    cwd: str
    members: tuple[SweepMember, ...]
    name: str

    @property
    def ids(self) -> list[str]:
        return [member.id for member in self.members]

    @property
    def sweep(self) -> "Sweep":
        return Sweep(self.folder.parents[2])

    def environment(self) -> dict[str, str]:
        """The environment of processes that import the submitted code, and none from their working directory."""
        paths = [self.code, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}

    def mark(self, marker: Marker, member: str) -> None:
        """Leave a marker, an empty file: creating one is atomic, even on a full disk. Raises OSError."""
        (self.folder / marker).mkdir(exist_ok=True)
        (self.folder / marker / member).touch()

    def unmark(self, marker: Marker, member: str) -> None:
        """Remove a marker, if there is one. Raises OSError."""
        (self.folder / marker / member).unlink(missing_ok=True)

    def marked(self, marker: Marker) -> set[str]:
        return {path.name for path in (self.folder / marker).glob("*")}

    def waiting(self) -> set[str]:
        """The members that its queue, if it is alive, has not ended with and was not asked to drop."""
        return set(self.ids) - self.marked("cancelled") - self.marked("ended")


_WITH_FOLDER = TypeAdapter(Submission)
_OBJECT_OF: Parser[dict[str, Any]] = parser(dict[str, Any])
_SUBMISSION_OF: Parser[Submission] = parser(Submission)


def write_submission(submission: Submission) -> None:
    record = _WITH_FOLDER.dump_python(submission, mode="json", exclude={"folder"})
    write_json(submission.folder / SUBMISSION, record)


def read_submission(folder: Path) -> Submission:
    """The submission in a folder. Raises DamagedFileError, also if there is none."""
    path = folder.absolute() / SUBMISSION
    plain = read_record(path, _OBJECT_OF) or {}
    return parsed(path, json.dumps({**plain, "folder": str(path.parent)}).encode(), _SUBMISSION_OF)


class Sweep:
    """The folder `runs/<name>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.name = self.folder.name
        self._manifest = self.folder / MANIFEST
        self.code = self._manifest.with_name("code")
        self.configs = self._manifest.with_name("configs")
        self.search = self._manifest.with_name("search")
        self.submissions_folder = self.folder / SUBMISSIONS

    def exists(self) -> bool:
        return os.path.lexists(self._manifest)

    def run(self, member: str) -> RunDirectory:
        return RunDirectory(self.folder / member)

    def members(self) -> dict[str, SweepMember]:
        """All members that were ever submitted, by id, in order; of a damaged manifest, those of its submissions."""
        try:
            manifest = read_record(self._manifest, MANIFEST_OF)
            members: Iterable[SweepMember] = manifest.members if manifest else ()
        except DamagedFileError as error:
            warn_once(str(error.with_remedy("the submissions tell its members; submit or resume writes it anew")))
            members = (member for submission in self.submissions() for member in submission.members)
        return {member.id: member for member in members}

    def add(self, members: Sequence[SweepMember]) -> None:
        """Put members into the manifest, in place of former entries of the same id."""
        self._write(self.members() | {member.id: member for member in members})

    def _write(self, members: Mapping[str, SweepMember]) -> None:
        write_json(self._manifest, {"members": [asdict(member) for member in members.values()]})

    def _mend(self) -> None:
        """Write a damaged manifest anew."""
        try:
            read_record(self._manifest, MANIFEST_OF)
        except DamagedFileError:
            members = self.members()
            set_aside(self._manifest)
            self._write(members)

    def submissions(self) -> list[Submission]:
        """All that can be read; for a damaged one, a warning."""
        return self._read_submissions()[0]

    def damaged_submissions(self) -> list[Path]:
        """The folders of those that cannot be read."""
        return self._read_submissions()[1]

    def _read_submissions(self) -> tuple[list[Submission], list[Path]]:
        submissions, damaged = [], []
        for folder in self.submission_folders():
            try:
                submissions.append(read_submission(folder))
            except DamagedFileError as error:
                warn_once(str(error.with_remedy("its members are judged by their own files alone")))
                damaged.append(folder)
        return submissions, damaged

    def submission_folders(self) -> list[Path]:
        return [folder for folder in sorted(self.submissions_folder.glob("*")) if os.path.lexists(folder / SUBMISSION)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One submission at a time. Raises InputError during another one."""
        self._manifest.parent.mkdir(parents=True, exist_ok=True)
        with self._manifest.with_name(".lock").open("a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise InputError(f"sweep {self.name}: is being submitted by another process; try again") from None
            self._mend()
            yield


@cache
def warn_once(text: str) -> None:
    """A command that watches a sweep reads its files again and again."""
    log.warning("%s", text)


def sweeps() -> list[Sweep]:
    folders = [Sweep(path.parent) for path in sorted(RUNS.glob(f"*/{MANIFEST.parent}"))]
    return [sweep for sweep in folders if sweep.exists()]


def chosen_sweep(name: str | None) -> Sweep:
    """The sweep of a name or a path; None: the one submitted last. Raises InputError if there is none."""
    submitted = sweeps()
    if name is None:
        if not submitted:
            raise InputError("no sweep was submitted from here; see --help")
        return max(submitted, key=_last_submitted)
    sweep = Sweep(sweep_folder(name))
    if not sweep.exists():
        names = ", ".join(each.name for each in submitted) or "none"
        raise InputError(f"{name}: no sweep of that name was submitted from here; there are: {names}")
    return sweep


def _last_submitted(sweep: Sweep) -> float:
    return max((each.folder.stat().st_mtime for each in sweep.submissions()), default=0)


def find_member(name: str) -> tuple[Sweep, SweepMember]:
    """The member by its id, as `path_by_id`. Raises InputError unless it is exactly one."""
    members = {Path(sweep.name, id_): (sweep, member) for sweep in sweeps() for id_, member in sweep.members().items()}
    return members[path_by_id(name, members, "no member of a sweep has such an id")]

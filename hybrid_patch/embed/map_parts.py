"""The parts of a map that is being made: where they are, and which job they belong to."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from hybrid_patch.data.source import Window
from hybrid_patch.embed.geotiff import MapFile, tags_of
from hybrid_patch.embed.reduction import Basis
from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import remove_parts, write_json
from hybrid_patch.runs.lock import LostLockError

MAX_STRIP_BYTES, MAX_PART_BYTES = 64 * 2**20, 128 * 2**20
"""Of a row of windows while it is blended, and of a part before compression."""

JOB_TAG = "EMBEDDING_JOB"
LOCK = ".lock"


def divide(file: MapFile, side: int) -> list[list[Window]]:
    """The parts of a map, one below the other in strips that lie side by side; their size bounds any map's memory."""
    block, bands = file.block, len(file.descriptions)
    column = max(side * bands * 4 / MAX_STRIP_BYTES, block * file.pixel_bytes / MAX_PART_BYTES)
    strips = -(-file.width // max(int(1 / column) // block * block, block))
    width = -(-file.width // (strips * block)) * block
    height = max(int(MAX_PART_BYTES / (width * file.pixel_bytes)) // block * block, block)
    return [
        [
            Window(top, left, min(height, file.height - top), min(width, file.width - left))
            for top in range(0, file.height, height)
        ]
        for left in range(0, file.width, width)
    ]


class PartsFolder:
    """The folder `<output>.parts` beside an output: parts, and their job, basis and batch size in `job.json`.

    A job is what the numbers and the form of a map depend on; its `job_id` is a tag of the map.
    """

    def __init__(self, output: Path, job: Mapping[str, Any]) -> None:
        self.output = output
        self.job: dict[str, Any] = json.loads(json.dumps(job))
        self.job_id = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
        self.path = output.with_name(output.name + ".parts")
        self.joined = self.path / "joined.vrt"
        self.copy = self.path / f".copy.{output.name}"
        self._job = self.path / "job.json"
        self._lock: TextIO | None = None

    def finished(self) -> bool:
        """Whether the output is the map of this job: an earlier start was killed after it had named the map, if at all.

        Removes the folder if that start could not. Raises InputError if the output is anything else.
        """
        if not self.output.exists():
            return False
        if tags_of(self.output).get(JOB_TAG) != self.job_id:
            raise InputError(f"output={self.output}: exists already; remove it or name another")
        if self.path.exists():
            self.resume()
            self.remove()
        return True

    def resume(self) -> tuple[Basis, int] | None:
        """Basis and batch size of the parts of an earlier start, or None.

        Raises InputError if the parts belong to another job, or another process is working on them.
        """
        if not self.path.exists():
            return None
        if not self._job.is_file():
            foreign = [path.name for path in self.path.iterdir() if not path.name.startswith(".")]
            if foreign:
                raise InputError(f"{self.path}: is in the way and not of this command (holds {foreign[0]}); remove it")
        self._acquire_lock()
        remove_parts(self.path)
        if not self._job.is_file():
            return None
        try:
            saved = json.loads(self._job.read_text())
            before, batch, basis = saved["job"], int(saved["batch"]), Basis.from_lists(saved["basis"])
        except (ValueError, KeyError) as error:
            raise InputError(f"{self._job}: not readable; remove {self.path} to begin anew") from error
        for key, now in self.job.items():
            if (was := before.get(key)) != now:
                change = f"parts of another job: {key} was {was}, is {now}"
                raise InputError(f"{self.path}: {change}; remove it to begin anew, or name another output")
        self.remove_copy()
        return basis, batch

    def begin(self, basis: Basis, batch: int) -> None:
        self.path.mkdir(exist_ok=True)
        if self._lock is None:
            self._acquire_lock()
        write_json(self._job, {"job": self.job, "batch": batch, "basis": basis.as_lists()})

    def file(self, part: Window) -> Path:
        return self.path / f"part_{part.top:08d}_{part.left:08d}.tif"

    def check_held(self) -> None:
        """Before a write. Raises LostLockError if the folder has been removed, and perhaps made anew by another."""
        assert self._lock is not None
        try:
            if os.path.samestat(os.fstat(self._lock.fileno()), (self.path / LOCK).stat()):
                return
        except FileNotFoundError:
            pass
        raise LostLockError(f"{self.path}: was removed while this process was making its parts")

    def finish(self) -> None:
        """Rename the copy to the output, and remove the folder. Raises InputError if the output exists by now."""
        self.check_held()
        if self.output.exists():
            raise InputError(f"output={self.output}: has come into being meanwhile; the map is {self.copy}")
        self.copy.rename(self.output)
        self.remove()

    def remove_copy(self) -> None:
        """Remove an incomplete copy, and GDAL's files beside it."""
        self.check_held()
        for path in self.path.glob(f"{self.copy.name}*"):
            path.unlink()

    def remove(self) -> None:
        """Remove the folder: `job.json` last, so that half of it still says what it is."""
        self.check_held()
        for path in self.path.iterdir():
            if path.name not in (self._job.name, LOCK):
                path.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def _acquire_lock(self) -> None:
        """Keep other processes from working here until this one ends. Raises InputError if one is."""
        self._lock = (self.path / LOCK).open("a+")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InputError(f"output={self.output}: another process is working on it ({self.path})") from None

"""The parts of a map that is being made: which job they are of, and which are done."""

import fcntl
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from hybrid_patch.data.source import Window
from hybrid_patch.embed.geotiff import MapFile
from hybrid_patch.embed.reduction import Basis, load_basis
from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import remove_parts, write_json

STRIP_BYTES, PART_BYTES = 64 * 2**20, 128 * 2**20
"""The most that a row of windows takes while it is blended, and a part before compression."""

Strip = list[Window]
"""Parts one below the other; strips lie side by side."""


def divide(file: MapFile, side: int) -> list[Strip]:
    """The parts of a map, each of whole blocks, so that all that is in memory at once is small for any size of a map.

    Args:
        side: of the windows.
    """
    block, bands = file.block, len(file.descriptions)
    column = max(side * bands * 4 / STRIP_BYTES, block * file.pixel_bytes / PART_BYTES)
    strips = -(-file.width // max(int(1 / column) // block * block, block))
    width = -(-file.width // (strips * block)) * block
    height = max(int(PART_BYTES / (width * file.pixel_bytes)) // block * block, block)
    return [
        [
            Window(top, left, min(height, file.height - top), min(width, file.width - left))
            for top in range(0, file.height, height)
        ]
        for left in range(0, file.width, width)
    ]


class PartsFolder:
    """The folder `<output>.parts` beside an output: parts, their basis, and `job.json`, which says what they are of."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output.with_name(output.name + ".parts")
        self.joined = self.path / "joined.vrt"
        self.copy = self.path / f".copy.{output.name}"
        self._basis = self.path / "basis.npz"
        self._job = self.path / "job.json"
        self._lock: TextIO | None = None

    def resume(self, job: Mapping[str, Any]) -> tuple[Basis, int] | None:
        """Basis and batch size of the parts that are here already; None if there are none.

        Raises InputError if they are of another job, or another process is at work on them.
        """
        if not self.path.exists():
            return None
        if not self._job.is_file():
            foreign = [path.name for path in self.path.iterdir() if path not in (self._basis, self.path / ".lock")]
            if foreign:
                raise InputError(f"{self.path}: is in the way and not of this command (holds {foreign[0]}); remove it")
            return None
        self._take()
        try:
            saved = json.loads(self._job.read_text())
            before, batch = saved["job"], int(saved["batch"])
        except (ValueError, KeyError) as error:
            raise InputError(f"{self._job}: not readable; remove {self.path} to begin anew") from error
        now = json.loads(json.dumps(job))
        different = [key for key in now if before.get(key) != now[key]]
        if different:
            key = different[0]
            raise InputError(
                f"{self.path}: parts of another job: {key} was {before.get(key)}, is {now[key]}; remove it to begin "
                "anew, or name another output"
            )
        remove_parts(self.path)
        self.remove_copy()
        return load_basis(self._basis), batch

    def begin(self, job: Mapping[str, Any], basis: Basis, batch: int) -> None:
        """Make the folder."""
        self.path.mkdir(exist_ok=True)
        self._take()
        basis.save(self._basis)
        write_json(self._job, {"job": job, "batch": batch})

    def file(self, part: Window) -> Path:
        """Where a part is."""
        return self.path / f"part_{part.top:08d}_{part.left:08d}.tif"

    def finish(self) -> None:
        """Give the copy its name, the output's, and remove all else. Raises InputError if that has been taken."""
        if self.output.exists():
            raise InputError(f"output={self.output}: has come into being meanwhile; the map is {self.copy}")
        self.copy.rename(self.output)
        self.remove()

    def remove_copy(self) -> None:
        """Remove a copy that is not whole, and what GDAL keeps beside it."""
        for left_over in self.path.glob(f"{self.copy.name}*"):
            left_over.unlink()

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def _take(self) -> None:
        """Keep other processes from working here until this one ends."""
        self._lock = (self.path / ".lock").open("a+")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InputError(f"output={self.output}: another process is at work on it ({self.path})") from None

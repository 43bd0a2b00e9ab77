"""Files that are whole or absent, whatever happens while they are written."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO


def write_whole(
    path: Path,
    write: Callable[[BinaryIO], object],
    permit: AbstractContextManager[None] | None = None,
    flush: bool = True,
) -> None:
    """Write a file under a temporary name, `flush` it to the disk, then rename it within `permit`, which may raise.

    Without `flush`, the caller calls `os.sync` after many files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        with permit or nullcontext():
            temporary.replace(path)
        if flush:
            flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove the unfinished files of killed processes; nobody may write to the folder now."""
    for part in list(folder.rglob(".*.part")):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Flush a folder, and with it the names of new files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file; a last line torn by a full disk stays a line of its own."""
    with path.open("a+b") as file:
        torn = False
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write(("\n" if torn else "").encode() + line.encode() + b"\n")


def write_bytes(path: Path, content: bytes, flush: bool = True) -> None:
    """`write_whole` for bytes in memory."""
    write_whole(path, lambda file: file.write(content), flush=flush)


def write_text(path: Path, text: str, flush: bool = True) -> None:
    """`write_whole` for text, with escapes for names of files that are in no encoding."""
    write_bytes(path, text.encode(errors="backslashreplace"), flush)


def write_json(path: Path, value: Any, flush: bool = True) -> None:
    """`write_whole` for JSON; raises ValueError for a number that JSON does not have (NaN, infinity)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n", flush)


def last_lines(path: Path, size: int = 4096) -> list[str]:
    """The lines in the last `size` bytes of a file; the first may be cut off."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - size, 0))
        return file.read().decode(errors="replace").splitlines()

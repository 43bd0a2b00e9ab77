"""The small files of a run, read as if a stranger had written them: each by one schema, whatever is in its place."""

import errno
import itertools
import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import last_lines

T = TypeVar("T")
Parser = Callable[[bytes], T]
"""From JSON to an object of a schema; raises pydantic's ValidationError."""
PART = 2**16
"""Bytes that are read at once."""
LARGEST_RECORD = 2**26
"""Bytes of a file that holds one object."""
DEEPEST = 50
"""Levels of a YAML file; its readers recurse."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C, ten times faster; part of PyYAML's wheels."""


class DamagedFileError(InputError):
    """A file that cannot be what its name says: `damaged: FILE, why; what to do`. Trouble of the disk is an OSError."""

    def __init__(self, path: Path, why: object, remedy: str = "") -> None:
        self.path, self.why = path, " ".join(str(why).split())[:200]
        super().__init__(f"damaged: {path}, {self.why}" + (f"; {remedy}" if remedy else ""))

    def with_remedy(self, remedy: str) -> "DamagedFileError":
        return DamagedFileError(self.path, self.why, remedy)


def parser(schema: Any) -> Parser[Any]:
    """The parser of a type that pydantic knows, which converts nothing: a text is no number."""
    return partial(TypeAdapter(schema).validate_json, strict=True)


def read_file(path: Path, largest: int | None = None) -> bytes | None:
    """A file's content; None if there is none. Raises DamagedFileError, also for a fifo or a folder in its place."""
    require_file(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # it may have become a fifo meanwhile
    except FileNotFoundError:
        return None
    content = bytearray()
    with open(descriptor, "rb") as file:
        # In parts: a single read has a buffer of all that it may return, and a process that is out of memory still
        # reads its lock; the size that a file says it has may be wrong.
        while (largest is None or len(content) <= largest) and (part := file.read(PART)):
            content += part
    if largest is not None and len(content) > largest:
        raise DamagedFileError(path, f"larger than {largest} bytes")
    return bytes(content)


def not_a_file(path: Path) -> str:
    """What is in the place of a file; empty if it is one, or absent."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else ""
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link to itself"
        raise
    return (
        "" if stat.S_ISREG(mode) else "a folder, not a file" if stat.S_ISDIR(mode) else "a fifo or device, not a file"
    )


def require_file(path: Path) -> None:
    """Raises DamagedFileError if something else is in the place of a file."""
    if special := not_a_file(path):
        raise DamagedFileError(path, special)


def read_record(path: Path, parse: Parser[T]) -> T | None:
    """The object of a JSON file; None if there is no such file. Raises DamagedFileError."""
    content = read_file(path, LARGEST_RECORD)
    return None if content is None else parsed(path, content, parse)


def parsed(path: Path, content: bytes, parse: Parser[T]) -> T:
    """The object that a file's content is. Raises DamagedFileError."""
    if not content.strip(b"\0 \r\n\t"):
        raise DamagedFileError(path, "empty")
    try:
        return parse(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise DamagedFileError(path, f"{field}: {first['msg']}" if field else first["msg"]) from None


def read_rows(path: Path, parse: Parser[T]) -> list[T]:
    """The objects of a JSON lines file, without torn and other bad lines; none without a file. Raises
    DamagedFileError if it cannot be read at all."""
    rows = []
    for line in (read_file(path) or b"").splitlines():
        with suppress(ValidationError):
            rows.append(parse(line))
    return rows


def last_row(path: Path, parse: Parser[T], size: int = 4096) -> T | None:
    """The last object in the last `size` bytes of a JSON lines file; None if there is none, or no such file."""
    if not_a_file(path) or not path.exists():
        return None
    for line in reversed(last_lines(path, size)):
        with suppress(ValidationError):
            return parse(line.encode())
    return None


def read_yaml(path: Path) -> dict[str, Any] | None:
    """The mapping in a YAML file, of plain values; None if there is no such file. Raises DamagedFileError."""
    content = read_file(path, LARGEST_RECORD)
    if content is None:
        return None
    try:
        text, depth = content.decode(), 0
        for event in yaml.parse(text, Loader=LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"nested more than {DEEPEST} deep")
            if isinstance(event, yaml.AliasEvent):  # a few of them can stand for more than any memory holds
                raise ValueError("it has an alias")
        value = yaml.load(text, Loader=LOADER)
        json.dumps(value)  # YAML has dates and sets too
    except (TypeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DamagedFileError(path, error) from None
    if not isinstance(value, dict):
        raise DamagedFileError(path, "not a mapping" if content.strip() else "empty")
    return {str(key): item for key, item in value.items()}


def make_room(path: Path) -> None:
    """Set aside what is in the place of a file, if anything else is."""
    if not_a_file(path):
        set_aside(path)


def set_aside(path: Path, why: str = "damaged") -> Path:
    """Rename a file or folder to the first free of `NAME.why`, `NAME.why-2`, … Returns the new path."""
    names = (f"{path.name}.{why}" + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
    aside = next(new for name in names if not os.path.lexists(new := path.with_name(name)))
    path.rename(aside)
    return aside

"""What can become of a small file: each way leaves something in its place that is not what its name says."""

import os
import socket
from collections.abc import Callable
from pathlib import Path


def _in_place_of(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return damage


def _written(content: bytes) -> Callable[[Path], None]:
    return _in_place_of(lambda path: path.write_bytes(content))


def _torn(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has at most 107 bytes
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


WAYS: dict[str, Callable[[Path], None]] = {
    "empty": _written(b""),
    "blank lines": _written(b"\n\n  \n"),
    "torn": _torn,
    "null": _written(b"null"),
    "a list": _written(b"[1, 2]"),
    "a number": _written(b"7"),
    "a text": _written(b'"running"'),
    "an empty object": _written(b"{}"),
    "texts for numbers": _written(b'{"step": "x", "pid": "y", "heartbeat": "now", "state": 3, "members": "all"}'),
    "not UTF-8": _written(b'{"state": "\xff\xfe"}'),
    "NUL bytes": _written(b"\0" * 4096),
    "nested deep": _written(b"[" * 10_000 + b"]" * 10_000),
    "nested deep, torn": _written(b'{"a":' * 10_000),
    "YAML tags": _written(b"!!python/object/apply:os.system ['touch executed']\n"),
    "aliases": _written(b"a: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]\n"),
    "a fifo": _in_place_of(os.mkfifo),
    "a folder": _in_place_of(Path.mkdir),
    "a link to itself": _in_place_of(lambda path: path.symlink_to(path.name)),
    "a socket": _in_place_of(_socket),
}

"""What a folder may hold in the place of a file, and a watchdog: a reader that waits is a failure and not a hang."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

DEEP = 10_000
LIMIT = 60
"""Seconds after which a reader counts as waiting for ever: the machines of tests may be busy."""


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")  # made by mknod, it would need a root that may


def terminal(path: Path) -> None:
    path.symlink_to("/dev/ptmx")


def unix_socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)  # the path of a socket has 107 bytes at most
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def folder(path: Path) -> None:
    path.mkdir()


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_its_folder(path: Path) -> None:
    path.symlink_to(".")


def empty(path: Path) -> None:
    path.touch()


def sparse_gigabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30)


def nul_bytes(path: Path) -> None:
    path.write_bytes(bytes(4096))


def not_utf8(path: Path) -> None:
    path.write_bytes(b"file,split\n\xff\xfe\xc3(.tif,train\n")


def nested(path: Path) -> None:
    path.write_text("[" * DEEP + "]" * DEEP)


def null(path: Path) -> None:
    path.write_text("null")


def a_list(path: Path) -> None:
    path.write_text('["B02", 3]')


def nested_object(path: Path) -> None:
    path.write_text('{"a": ' * DEEP + "1" + "}" * DEEP)


def huge_number(path: Path) -> None:
    path.write_text('{"x": 1' + "0" * 5000 + "}")


NO_FILES: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (
        fifo,
        device,
        terminal,
        unix_socket,
        folder,
        link_to_nothing,
        link_to_itself,
        link_to_its_folder,
    )
}
"""What is no file."""
NO_CONTENT: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (empty, sparse_gigabyte, nul_bytes, not_utf8, nested, nested_object, null, a_list, huge_number)
}
"""Files of another content than their names say."""
ODDITIES = {**NO_FILES, **NO_CONTENT}


def put(oddity: str, path: Path) -> Path:
    """Put something odd in the place of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    ODDITIES[oddity](path)
    return path


def watched(work: Callable[[], str], limit: float = LIMIT) -> str:
    """What `work` returns, done in a process that is killed if it waits; a traceback if it raises."""
    context = multiprocessing.get_context("fork")
    answers, answer = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(work, answer), daemon=False)
    process.start()
    answer.close()
    try:
        if not answers.poll(limit):
            return f"waits for more than {limit} s"
        return str(answers.recv())
    except EOFError:
        process.join()
        return f"ended by itself with {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _answer(work: Callable[[], str], answer: Connection) -> None:
    try:
        answer.send(work())
    except BaseException:
        answer.send(traceback.format_exc())

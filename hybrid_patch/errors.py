"""How commands end: exit codes, and errors that are meant for the person at the terminal; numbers in their lines."""

import errno
import importlib.util
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DONE, FAILED, BAD_INPUT = 0, 1, 2
DISK_LOST = 74
"""The disk took no more writes, not even why it ended."""
STOPPED = 75
"""Stopped by a signal with its state saved: the same command goes on from there."""
LOST = 76
"""Another attempt has taken the run over."""
INTERRUPTED = 130
"""Stopped at once by Ctrl-C."""
BROKEN_PIPE = 141
"""The reader of the output is gone (`| head`)."""

DISK_ERRORS = (errno.EIO, errno.EROFS, errno.ESTALE, errno.EREMOTEIO, errno.ENOTCONN, errno.ESHUTDOWN)
"""A disk, or the way to it, that may come back. Read-only: as the kernel makes one after errors."""


LONGEST_LINE = 2000
"""Characters of an error's line; of a longer one, the beginning and the end are shown."""


class InputError(Exception):
    """Bad input: a line that the commands print before they exit with 2; further arguments are lines below it."""

    def __str__(self) -> str:
        return "\n  ".join(printable(str(line)) for line in self.args)


def printable(text: str) -> str:
    """A text as one line, with line breaks and whatever else a terminal would obey written as escapes."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def number_of(n: int, noun: str) -> str:
    """`1 run`, `3 runs`"""
    return f"{n} {noun}{'' if n == 1 else 's'}"


@contextmanager
def input_errors_end() -> Iterator[None]:
    """End the process at an InputError, or a path that no file can have, with exit code 2 and its text on stderr.

    An error of the disk ends it with exit code 1.
    """
    try:
        yield
    except (InputError, OSError) as error:
        if isinstance(error, OSError):
            if error.errno in DISK_ERRORS:
                print(f"error: {error.filename or 'the disk'}: {error.strerror}; try later", file=sys.stderr)
                sys.exit(FAILED)
            if error.errno != errno.ENAMETOOLONG:
                raise
            error = InputError(f"{error.filename}: longer than the name of a file can be; give a shorter one")
        print("error:", error, file=sys.stderr)
        sys.exit(BAD_INPUT)


@contextmanager
def broken_pipe_ends() -> Iterator[None]:
    """Around prints: a reader that has gone (`| head`) ends the process without a traceback."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        if not poll.poll(0):  # it was another pipe, such as a worker's
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its exit
        sys.exit(BROKEN_PIPE)


def require_extra(extra: str, *modules: str) -> None:
    """Raises InputError that names the extra if one of the modules is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)}: not installed; pip install 'hybrid_patch[{extra}]'")

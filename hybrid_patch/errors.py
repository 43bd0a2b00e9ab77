"""How commands end: exit codes, and errors that are meant for the person at the terminal."""

import importlib.util
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DONE, FAILED, BAD_INPUT = 0, 1, 2
STOPPED = 75
"""Stopped by a signal with its state saved: the same command goes on from there."""
LOST = 76
"""Another attempt has taken the run over."""
INTERRUPTED = 130
"""Stopped at once by Ctrl-C."""
BROKEN_PIPE = 141
"""The reader of the output is gone (`| head`)."""


class InputError(Exception):
    """Bad input: a line that the commands print before they exit with 2."""


@contextmanager
def input_errors_end(one_line: bool = True) -> Iterator[None]:
    """End the process at an InputError, with exit code 2 and its text on stderr, joined to `one_line` or as it is."""
    try:
        yield
    except InputError as error:
        print("error:", " ".join(str(error).splitlines()) if one_line else error, file=sys.stderr)
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

"""How a command starts and ends: its arguments parsed, help and version answered, its exit code and errors."""

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NoReturn, TypeVar

from hybrid_patch.config.options import Overrides, Positional, option_fields, parse
from hybrid_patch.errors import INTERRUPTED, broken_pipe_ends, input_errors_end

T = TypeVar("T")
HELP_FLAGS = ("--help", "-h")
SPINS = "1000"
"""Turns that a waiting thread of GNU's OpenMP spins before it sleeps: a few microseconds.

Threads that sleep at once double the time of a small step on a quiet machine, since each of its many short parallel
parts has to wake them; threads that spin for long make a step many times slower where something else runs too. On
2 cores, nano at patch size 8: 58 ms and 33 ms a step with 0 and 1,000 spins on the quiet machine (docs/performance.md
has the command), 51 ms and 79 ms beside one busy process; with 100,000 spins, 400 ms beside it.
"""


def run_command(
    name: str,
    description: str | None,
    options: type[T],
    run: Callable[[T], int | None],
    arguments: Sequence[str] | None = None,
    *,
    one_line: bool = True,
) -> NoReturn:
    """Run a command and exit with what it returns (None: 0); bad input is one line and exit code 2.

    Args:
        name: how the command is typed.
        description: for the help; the docstring of the command's module, usually.
        options: a dataclass, as in the docstring of this module.
        run: the command; it imports what is heavy by itself.
        arguments: None: those of the process.
        one_line: False for a command whose errors may list several things, a line each.
    """
    words = sys.argv[1:] if arguments is None else arguments
    answer_help(words, lambda: help_text(name, description or "", options))
    wait_briefly()
    with input_errors_end(one_line), broken_pipe_ends():
        try:
            code = run(parse(options, words))
        except KeyboardInterrupt:
            code = INTERRUPTED
    sys.exit(code or 0)


def answer_help(arguments: Sequence[str], text: Callable[[], str]) -> None:
    """Where the arguments ask for help or the version, print it and exit."""
    asked = next((word for word in arguments if word in (*HELP_FLAGS, "--version")), None)
    if asked is not None:
        with broken_pipe_ends():
            print(f"hybrid_patch {version()}" if asked == "--version" else text())
        sys.exit(0)


def version() -> str:
    """The installed version of this package."""
    try:
        return metadata.version("hybrid_patch")
    except metadata.PackageNotFoundError:
        return "unknown (a checkout that is not installed)"


def wait_briefly() -> None:
    """Let waiting CPU threads spin for a moment and then sleep, unless the environment says otherwise.

    To be called before torch is imported: OpenMP reads it once.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def help_text(name: str, description: str, options: type) -> str:
    """How a command is typed, what it does, and a line or more for each of its options."""
    fields = option_fields(options)
    usage = [name]
    for option in fields.values():
        if isinstance(option.mark, Overrides):
            usage.append("[key=value ...]")
        elif isinstance(option.mark, Positional):
            usage.append(option.shown if option.required else f"[{option.shown}]")
    if any(not isinstance(option.mark, Positional | Overrides) for option in fields.values()):
        usage.append("[options]")
    rows = [row for option in fields.values() for row in option.lines()]
    rows += [("--help, --version", "print this, or the version, and do nothing else")]
    return f"usage: {' '.join(usage)}\n\n{description.strip()}\n\n{rows_text(rows)}"


def rows_text(rows: Sequence[tuple[str, str]], first: int = 24) -> str:
    """Two columns, the second wrapped to the terminal's width (at most 120)."""
    width = min(max(shutil.get_terminal_size((120, 24)).columns, 60), 120)
    lines = []
    for shown, explained in rows:
        begin = f"  {shown:<{first}}"
        wrapped = textwrap.wrap(explained, width - first - 4) or [""]
        if len(shown) > first:
            lines.append(begin)
            begin = " " * (first + 2)
        lines += [f"{begin}  {wrapped[0]}".rstrip(), *(" " * (first + 4) + line for line in wrapped[1:])]
    return "\n".join(lines)

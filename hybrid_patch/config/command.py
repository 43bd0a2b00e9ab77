"""How a command starts and ends: help and version, exit code and errors."""

import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NoReturn, TypeVar

from hybrid_patch.config.before_torch import before_torch
from hybrid_patch.config.options import Overrides, Positional, option_fields, parse
from hybrid_patch.errors import INTERRUPTED, broken_pipe_ends, input_errors_end

T = TypeVar("T")
HELP_FLAGS = ("--help", "-h")


def run_command(
    name: str,
    description: str | None,
    options: type[T],
    run: Callable[[T], int | None],
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Run a command and exit with what it returns (None: 0); bad input ends with exit code 2, as `input_errors_end`.

    Args:
        name: how the command is typed.
        options: a dataclass of `Option` fields.
        run: the command; it imports what is heavy by itself.
    """
    words = sys.argv[1:] if arguments is None else arguments
    answer_help(words, lambda: help_text(name, description or "", options))
    before_torch()
    with input_errors_end(), broken_pipe_ends():
        try:
            code = run(parse(options, words))
        except KeyboardInterrupt:
            code = INTERRUPTED
    sys.exit(code or 0)


def answer_help(arguments: Sequence[str], text: Callable[[], str]) -> None:
    """If the arguments ask for help or the version, print it and exit."""
    asked = next((word for word in arguments if word in (*HELP_FLAGS, "--version")), None)
    if asked is not None:
        with broken_pipe_ends():
            print(f"hybrid_patch {version()}" if asked == "--version" else text())
        sys.exit(0)


def version() -> str:
    try:
        return metadata.version("hybrid_patch")
    except metadata.PackageNotFoundError:
        return "unknown (a checkout that is not installed)"


def help_text(name: str, description: str, options: type) -> str:
    """How a command is typed, what it does, and a line or more for each of its options."""
    fields = option_fields(options)
    usage = [name]
    for option in fields.values():
        if isinstance(option.mark, Overrides):
            usage += filter(None, [option.mark.required])
        elif isinstance(option.mark, Positional):
            usage.append(option.shown if option.required else f"[{option.shown}]")
    if any(isinstance(option.mark, Overrides) for option in fields.values()):
        usage.append("[key=value ...]")
    if any(not isinstance(option.mark, Positional | Overrides) for option in fields.values()):
        usage.append("[options]")
    rows = [row for option in fields.values() for row in option.lines()]
    rows.append(("--help, --version", "print this, or the version, and do nothing else"))
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

"""The command line of a run: bad input ends as one line and exit code 2, all else goes on to Hydra's own main."""

import functools
import io
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser  # the parser that hydra.main itself uses; there is no public one
from omegaconf import DictConfig

from hybrid_patch.config import multirun
from hybrid_patch.config.compose import (
    Sources,
    checked,
    compose,
    composed,
    held_to_schema,
    hydra_overrides,
    in_one_line,
    parse,
)
from hybrid_patch.config.literal import quote
from hybrid_patch.config.schema import Config
from hybrid_patch.errors import InputError

__all__ = ["check_command_line", "compose", "input_errors_end", "run_hydra"]

BAD_INPUT = 2


def check_command_line() -> None:
    """End the process with one line and exit code 2 if the command line (`sys.argv`) is bad input.

    Of a sweep it is enough that one member is good. What is only printed (`--cfg`, `--info`, `--help`) may lack
    mandatory values. Imports nothing heavy.
    """
    with input_errors_end():
        arguments = _parsed(sys.argv[1:])
        if _is_hydras_own(arguments):
            return
        sources = _sources(arguments)
        if arguments.multirun:
            _check_sweep(arguments.overrides, sources)
        elif arguments.help or arguments.cfg or arguments.info:
            config = composed(hydra_overrides(arguments.overrides, sources), sources)
            held_to_schema(config, sources, allow_missing=True)
        else:
            compose(arguments.overrides, sources)


def run_hydra(train: Callable[[Config], int]) -> NoReturn:
    """Hand the command line (`sys.argv`) to Hydra's main, which calls `train` with the config, and exit.

    The exit code is what `train` returns; 2 for an InputError, printed as one line; 1 for another exception, with its
    traceback. With `-m` the members run as processes of this same command (`multirun.py`), whose codes decide.
    """
    codes: list[int] = []
    original = sys.argv
    with input_errors_end():
        arguments = _parsed(original[1:])
        sources = _sources(arguments)
        rewritten = original[1:] if _is_hydras_own(arguments) else _for_hydra(arguments, sources)

    @functools.wraps(train)
    def task(config: DictConfig) -> None:
        # Whoever starts this command again from inside (DDP, for its other processes) must find what the person typed.
        sys.argv = original
        with input_errors_end():
            codes.append(train(checked(held_to_schema(config, sources))))

    multirun.register()
    sys.argv = [original[0], *rewritten]
    hydra.main(config_path=str(sources.folder), config_name=sources.name, version_base="1.3")(task)()
    sys.exit(next((code for code in codes if code), 0))


@contextmanager
def input_errors_end() -> Iterator[None]:
    """Around any command: an InputError ends the process with one line on stderr and exit code 2."""
    try:
        yield
    except InputError as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        sys.exit(BAD_INPUT)


def _parsed(argv: Sequence[str]) -> Namespace:
    """Hydra's flags and the overrides, in any order."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            arguments = get_args_parser().parse_intermixed_args(argv)
    except SystemExit as end:
        if not end.code:
            raise
        reason = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise InputError(f"{reason}; --hydra-help lists the flags") from end
    arguments.multirun = arguments.multirun or "hydra.mode=MULTIRUN" in arguments.overrides
    modes = {
        "--run": arguments.run,
        "--multirun": arguments.multirun,
        "--cfg": arguments.cfg,
        "--info": arguments.info,
        "--shell-completion": arguments.shell_completion,
    }
    chosen = [name for name, value in modes.items() if value]
    if len(chosen) > 1:
        raise InputError(f"{' '.join(chosen)}: only one of them at a time")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise InputError("--resolve: only together with --cfg or --help")
    return arguments


def _is_hydras_own(arguments: Namespace) -> bool:
    """Whether the command line is about Hydra alone, not about a config."""
    return bool(arguments.hydra_help or arguments.shell_completion or arguments.experimental_rerun)


def _sources(arguments: Namespace) -> Sources:
    sources = Sources() if arguments.config_path is None else Sources(folder=Path(arguments.config_path).resolve())
    name = arguments.config_name or sources.name
    extra = None if arguments.config_dir is None else Path(arguments.config_dir).resolve()
    for option, folder in (("--config-path", sources.folder), ("--config-dir", extra)):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{option}={folder}: there is no such folder")
    return Sources(folder=sources.folder, name=name, extra=extra)


def _for_hydra(arguments: Namespace, sources: Sources) -> list[str]:
    """The same command line in Hydra's grammar, flags first."""
    flags = {**vars(arguments), "overrides": None, "config_path": None, "config_name": None, "config_dir": None}
    line = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in flags.items() if value
    ]
    if sources.extra is not None:
        line.append(f"--config-dir={sources.extra}")
    line += hydra_overrides(arguments.overrides, sources, sweep=arguments.multirun)
    if arguments.multirun and not any(o.startswith("hydra/launcher=") for o in arguments.overrides):
        command = ", ".join(quote(word) for word in _member_command(sources))
        line.append(f"hydra.launcher.command=[{command}]")
    return line


def _member_command(sources: Sources) -> list[str]:
    """The command that runs one member: this one, without its overrides."""
    main = sys.modules["__main__"].__spec__
    program = [sys.argv[0]] if main is None else ["-m", main.name]
    flags = [f"--config-path={sources.folder}", f"--config-name={sources.name}"]
    if sources.extra is not None:
        flags.append(f"--config-dir={sources.extra}")
    return [sys.executable, *program, *flags]


def _check_sweep(overrides: Sequence[str], sources: Sources) -> None:
    """Raises InputError if no member of a sweep is good: what the members say, once if they all say the same."""
    parsed = [parse(override) for override in hydra_overrides(overrides, sources, sweep=True)]
    if any(override.key_or_group == "run_dir" for override in parsed):
        raise InputError("run_dir: not with -m, where each member has its own; sweep_name=<name> names their folder")
    with in_one_line(overrides):
        members = multirun.members(parsed)
    said = []
    for member in members:
        try:
            compose(member, sources)
        except InputError as error:
            said.append(str(error))
        else:
            return
    raise InputError("; ".join(dict.fromkeys(said)))

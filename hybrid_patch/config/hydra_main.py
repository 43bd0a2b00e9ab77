"""The command line of a run: bad input ends as one line and exit code 2, all else goes on to Hydra's own main."""

import functools
import io
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser  # the parser that hydra.main itself uses; there is no public one
from omegaconf import DictConfig

from hybrid_patch.config.compose import (
    Sources,
    checked,
    compose,
    composed,
    held_to_schema,
    hydra_overrides,
    sweep_members,
    with_sweep_written_out,
)
from hybrid_patch.config.multirun import Member, MemberRunner, exit_code, summary
from hybrid_patch.config.recipe import run_directory
from hybrid_patch.config.schema import Config
from hybrid_patch.errors import INTERRUPTED, InputError, input_errors_end


def check_command_line() -> None:
    """Judge the command line (`sys.argv`): bad input ends the process with one line and exit code 2.

    A sweep (`-m`) is run from here, its members as processes of this same command, and ends the process with its exit
    code: it never needs what they import. Returns if there is one run to be trained, if another plugin was chosen for
    the sweep (`hydra/launcher=...`), or if Hydra has something to print (`--cfg`, `--info`, `--help`, for which
    mandatory values may be missing). Imports nothing heavy.
    """
    with input_errors_end():
        arguments = _parsed(sys.argv[1:])
        if _is_for_hydra_alone(arguments):
            return
        sources = _sources(arguments)
        if arguments.multirun:
            _sweep(arguments.overrides, sources)
        elif arguments.help or arguments.cfg or arguments.info:
            config = composed(hydra_overrides(arguments.overrides, sources), sources)
            held_to_schema(config, sources, allow_missing=True)
        else:
            compose(arguments.overrides, sources)


def run_hydra(train: Callable[[Config], int]) -> NoReturn:
    """Hand the command line (`sys.argv`) to Hydra's main, which calls `train` with the config, and exit.

    The exit code is what `train` returns; 2 for an InputError, printed as one line; 130 for a KeyboardInterrupt; 1 for
    another exception, with its traceback. To be called after `check_command_line`.
    """
    codes: list[int] = []
    original = sys.argv
    with input_errors_end():
        arguments = _parsed(original[1:])
        sources = _sources(arguments)
        rewritten = original[1:] if _is_for_hydra_alone(arguments) else _for_hydra(arguments, sources)

    @functools.wraps(train)
    def task(config: DictConfig) -> None:
        # Whoever starts this command again from inside (DDP, for its other processes) must find what the person typed.
        sys.argv = original
        with input_errors_end():
            codes.append(train(checked(held_to_schema(config, sources))))

    sys.argv = [original[0], *rewritten]
    try:
        hydra.main(config_path=str(sources.folder), config_name=sources.name, version_base="1.3")(task)()
    except KeyboardInterrupt:
        print("stopped at once by a second Ctrl-C; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(next((code for code in codes if code), 0))


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


def _is_for_hydra_alone(arguments: Namespace) -> bool:
    """Whether the command line is about Hydra itself, not about a config."""
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
    overrides = with_sweep_written_out(arguments.overrides, sources) if arguments.multirun else arguments.overrides
    return [*line, *hydra_overrides(overrides, sources, sweep=arguments.multirun)]


def _sweep(overrides: Sequence[str], sources: Sources) -> None:
    """Run the members of a sweep and exit; return if it chooses another plugin of Hydra's to run them.

    Raises InputError if no member is good: what they say, once if they say the same.
    """
    if any(re.match(r"\+*run_dir=", override) for override in overrides):
        raise InputError("run_dir: not with -m, where each member has its own; sweep_name=<name> names their folder")
    members = [_member(line, sources) for line in sweep_members(overrides, sources)]
    if all(member.error for member in members):
        raise InputError("; ".join(dict.fromkeys(member.error for member in members)))
    if any(override.startswith(("hydra/launcher=", "hydra/sweeper=")) for override in overrides):
        return
    runner = MemberRunner(_command(sources))
    outcomes = runner.run(members)
    print(summary(outcomes), flush=True)
    sys.exit(exit_code(outcomes, runner.stopped))


def _member(arguments: list[str], sources: Sources) -> Member:
    try:
        return Member(arguments, directory=run_directory(compose(arguments, sources)))
    except InputError as error:
        return Member(arguments, error=str(error))


def _command(sources: Sources) -> list[str]:
    """The command that runs one member: this one, without its overrides."""
    main = sys.modules["__main__"].__spec__
    program = [sys.argv[0]] if main is None else ["-m", main.name]
    flags = [f"--config-path={sources.folder}", f"--config-name={sources.name}"]
    if sources.extra is not None:
        flags.append(f"--config-dir={sources.extra}")
    return [sys.executable, *program, *flags]

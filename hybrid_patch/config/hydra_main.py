"""The command line of a training; bad input ends it before anything heavy is imported."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import NoReturn

import hydra
from omegaconf import DictConfig, OmegaConf

from hybrid_patch.config.command import HELP_FLAGS, answer_help
from hybrid_patch.config.compose import checked, compose, composed, held_to_schema
from hybrid_patch.config.continued import KEY
from hybrid_patch.config.overrides import hydra_overrides, key_of
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sources import Sources, chosen_sources
from hybrid_patch.config.sweep import sweep_members, with_sweep_written_out
from hybrid_patch.config.train_help import train_help
from hybrid_patch.errors import INTERRUPTED, InputError, broken_pipe_ends, input_errors_end

Train = Callable[[Config], int]

CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
TEXTS = {"package": "p", "config-path": "cp", "config-name": "cn", "config-dir": "cd", "experimental-rerun": None}
SWITCHES = {"resolve": None, "run": "r", "multirun": "m", "shell-completion": "sc", "hydra-help": None}
MODES = ("run", "multirun", "cfg", "info", "shell-completion")
"""Flags that exclude each other."""
LAUNCHER = "hydra/launcher="


def hydra_command(description: str, train: Train) -> NoReturn:
    """Train the run that the arguments (`sys.argv`) describe, and exit with what `train` returns.

    A sweep (`-m`) is handed to `hybrid-patch launch run`, or to the launcher of Hydra's that it names; `--cfg`,
    `--info` and the like are Hydra's.
    """
    words = sys.argv[1:]
    answer_help(words, lambda: train_help(description, [word for word in words if word not in HELP_FLAGS]))
    with input_errors_end(), broken_pipe_ends():
        try:
            sys.exit(_run(train, words))
        except KeyboardInterrupt:
            message = "stopped at once by a second Ctrl-C; the same command goes on from the last checkpoint"
            print(message, file=sys.stderr)
            sys.exit(INTERRUPTED)


def _run(train: Train, words: Sequence[str]) -> int:
    arguments = _parsed(words)
    if arguments.hydra_help or arguments.shell_completion or arguments.experimental_rerun:
        return run_hydra(train, words, Sources())
    sources, overrides = _sources(arguments), arguments.overrides
    if arguments.multirun:
        if not any(word.startswith(LAUNCHER) for word in overrides):
            _launch(overrides, sources)
        if any(key_of(word) == KEY for word in overrides):
            raise InputError(
                "continue_from: not with a launcher of Hydra's; leave that out, or use hybrid-patch launch"
            )
        _check_sweep(overrides, sources)
    elif arguments.cfg or arguments.info:
        config = composed(hydra_overrides(overrides, sources), sources)
        held_to_schema(config, sources, allow_missing=True)
        if arguments.cfg == "job":  # as it is composed here, where a group that is chosen wins over an experiment
            _print(config, arguments)
            return 0
    else:
        return train(compose(overrides, sources))
    return run_hydra(train, _for_hydra(arguments, sources), sources)


def run_hydra(train: Train, words: Sequence[str], sources: Sources) -> int:
    """Let Hydra's main print something or call `train`. Returns the exit code."""
    codes: list[int] = []
    original = sys.argv

    def task(config: DictConfig) -> None:
        # DDP starts this command again for its other processes: with what the person typed.
        sys.argv = original
        codes.append(train(checked(held_to_schema(config, sources))))

    sys.argv = [original[0], *words]
    hydra.main(config_path=str(sources.folder), config_name=sources.name, version_base="1.3")(task)()
    return next((code for code in codes if code), 0)


def flag_parser() -> argparse.ArgumentParser:
    """Hydra's flags and the overrides; its own parser is private (`tests/config` compares them)."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--cfg", "-c", choices=CFG)
    parser.add_argument("--info", "-i", choices=INFO, nargs="?", const="all")
    for name, short in TEXTS.items():
        parser.add_argument(f"--{name}", *([f"-{short}"] if short else []))
    for name, short in SWITCHES.items():
        parser.add_argument(f"--{name}", *([f"-{short}"] if short else []), action="store_true")
    return parser


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    messages = io.StringIO()
    try:
        with redirect_stderr(messages):
            arguments = flag_parser().parse_intermixed_args(words)
    except SystemExit as end:
        reason = messages.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise InputError(f"{reason}; --help and --hydra-help list the flags") from end
    chosen = [f"--{name}" for name in MODES if getattr(arguments, name.replace("-", "_"))]
    if len(chosen) > 1:
        raise InputError(f"{' '.join(chosen)}: only one of them at a time")
    if arguments.resolve and not arguments.cfg:
        raise InputError("--resolve: only together with --cfg")
    return arguments


def _sources(arguments: argparse.Namespace) -> Sources:
    path, extra = (None if text is None else Path(text) for text in (arguments.config_path, arguments.config_dir))
    return chosen_sources(path, arguments.config_name, extra)


def _print(config: DictConfig, arguments: argparse.Namespace) -> None:
    """A config, or its package, as Hydra prints it."""
    node = config if arguments.package is None else OmegaConf.select(config, arguments.package)
    if node is None:
        raise InputError(f"--package={arguments.package}: there is no such group or value")
    head = "" if arguments.package is None else f"# @package {arguments.package}\n"
    print(head + OmegaConf.to_yaml(node, resolve=arguments.resolve) if OmegaConf.is_config(node) else node)


def _for_hydra(arguments: argparse.Namespace, sources: Sources) -> list[str]:
    """The same command line in Hydra's grammar, flags first."""
    flags = dict(vars(arguments), overrides=None, config_path=None, config_name=None, config_dir=sources.extra)
    given = {f"--{name.replace('_', '-')}": value for name, value in flags.items() if value}
    line = [flag if value is True else f"{flag}={value}" for flag, value in given.items()]
    overrides = with_sweep_written_out(arguments.overrides, sources) if arguments.multirun else arguments.overrides
    return [*line, *hydra_overrides(overrides, sources, sweep=arguments.multirun)]


def _check_sweep(overrides: Sequence[str], sources: Sources) -> None:
    """Raises InputError if a sweep sets `run_dir`, or none of its members is valid."""
    for word in overrides:
        if word.lstrip("+").startswith("run_dir="):
            raise InputError(f"{word}: each member has its own; sweep_name=<name> names their folder")
    errors = []
    for line in sweep_members(overrides, sources):
        try:
            compose(line, sources)
            return
        except InputError as error:
            errors.append(str(error))
    raise InputError("; ".join(dict.fromkeys(errors)))


def _launch(overrides: Sequence[str], sources: Sources) -> NoReturn:
    """Become `hybrid-patch launch run`."""
    folders = [f"--config-path={sources.folder}", f"--config-name={sources.name}"]
    folders += [] if sources.extra is None else [f"--config-dir={sources.extra}"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "launch", "run", *folders, *overrides])

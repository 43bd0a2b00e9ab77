"""Compare what variants cost: `python -m hybrid_patch.benchmark variants=[ps8,hybrid,ps1] rounds=7 [overrides]`.

Real training steps on fixed data, forward, backward and optimizer apart. The variants take turns in random order within
each round, so that a drift of the machine hits all alike, and are compared by the ratios of their times in the same
round. Peak memory is that of a process of its own.
"""

import multiprocessing
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.table import Table

from hybrid_patch.config.front import compose, input_errors_end
from hybrid_patch.config.literal import take_paths
from hybrid_patch.config.schema import Config
from hybrid_patch.errors import InputError
from hybrid_patch.files import write_json
from hybrid_patch.threads import wait_briefly

VARIANTS = {
    "ps8": ["patch=ps8"],
    "hybrid": ["patch=hybrid", "upsampler=bilinear"],
    "learned": ["patch=hybrid", "upsampler=learned"],
    "subpixel": ["patch=hybrid", "upsampler=subpixel"],
    "ps1": ["patch=ps1"],
}
"""Overrides by name; `define.<name>='[…]'` adds to them."""

PARTS = ("forward", "backward", "optimizer")
USAGE = f"""{__doc__}
  variants=[a,b]      what is compared: {", ".join(VARIANTS)}, or your own (default [ps8,hybrid,ps1])
  define.NAME='[…]'   your own: a list of overrides, as define.mine='[patch=hybrid,upsampler=subpixel]'
  rounds=N            how often each is timed (default 7)
  warmup=N            how often each is run before (default 2)
  output=FILE         write the report as JSON
  key=value           an override for all variants, as in hybrid_patch.train (its --help lists them)
"""
OWN_KEYS = ("variants", "define.NAME", "rounds", "warmup", "output")


class Plan(NamedTuple):
    """What the command line asks for."""

    configs: dict[str, Config]
    rounds: int
    warmup: int
    output: Path | None


def main() -> None:
    """The command."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(USAGE)
        return
    with input_errors_end():
        plan = read(sys.argv[1:])
    wait_briefly()
    report = measure(plan, lambda text: print(text, file=sys.stderr, flush=True))
    Console(width=None if sys.stdout.isatty() else 120).print(times_table(report), ratios_table(report))
    if plan.output is not None:
        write_json(plan.output, report)


def read(arguments: Sequence[str]) -> Plan:
    """The plan of a command line; raises InputError, naming the variant whose config is bad."""
    for flag in [argument for argument in arguments if argument.startswith("-")]:
        raise InputError(f"{flag}: no such flag; takes --help and: {', '.join(OWN_KEYS)}, key=value")
    paths, rest = take_paths(arguments, ["output"])
    own = {"variants": "[ps8,hybrid,ps1]", "rounds": "7", "warmup": "2"}
    defined, overrides = dict(VARIANTS), []
    for argument in rest:
        key, _, value = argument.partition("=")
        if key in own:
            own[key] = value
        elif key.startswith("define."):
            defined[key.removeprefix("define.")] = _list(key, value)
        else:
            overrides.append(argument)
    names = _list("variants", own["variants"])
    unknown = [name for name in names if name not in defined]
    if unknown or not names:
        known = ", ".join(defined)
        raise InputError(
            f"variants={own['variants']}: {unknown or 'none named'}; takes: {known}, or define.<name>='[…]'"
        )
    configs = {}
    for name in names:
        try:
            configs[name] = compose(["logger=none", "evaluation=none", *overrides, *defined[name]])
        except InputError as error:
            hint = f" (the benchmark's own keys: {', '.join(OWN_KEYS)})" if "unknown key" in str(error) else ""
            raise InputError(f"variant {name}: {error}{hint}") from error
    return Plan(configs, _count("rounds", own["rounds"]), _count("warmup", own["warmup"]), _path(paths.get("output")))


def measure(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """The report: machine, configs, and for every variant seconds, memory and pixels per second, and their ratios."""
    from hybrid_patch.config.recipe import recipe
    from hybrid_patch.cost.step import Step
    from hybrid_patch.cost.timing import interleave, interval, ratio
    from hybrid_patch.run_directory import provenance

    memory = {}
    for name, config in plan.configs.items():
        say(f"memory: {name}")
        memory[name] = peak_memory(config)
    steps = {name: Step(config) for name, config in plan.configs.items()}
    seconds = interleave({name: step.run for name, step in steps.items()}, plan.rounds, plan.warmup, say)
    totals = {name: [sum(parts.values()) for parts in rounds] for name, rounds in seconds.items()}
    variants = {}
    for name, rounds in seconds.items():
        variants[name] = {
            "step_seconds": interval(totals[name])._asdict(),
            **{f"{part}_seconds": interval([parts[part] for parts in rounds])._asdict() for part in PARTS},
            "peak_memory_bytes": memory[name],
            "pixels_per_second": steps[name].pixels / statistics.median(totals[name]),
            "parameters": steps[name].parameters,
        }
    ratios = {
        f"{a}/{b}": {
            "step_seconds": ratio(totals[a], totals[b])._asdict(),
            "peak_memory_bytes": memory[a] / memory[b],
        }
        for a in totals
        for b in totals
        if a != b
    }
    return {
        "machine": provenance(),
        "config": {name: recipe(config) for name, config in plan.configs.items()},
        "rounds": plan.rounds,
        "variants": variants,
        "ratios": ratios,
    }


def peak_memory(config: Config) -> int:
    """Bytes at the peak of a few steps, in a process that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_steps_alone, (config,))


def _steps_alone(config: Config) -> int:
    from hybrid_patch.cost.memory import PeakMemory
    from hybrid_patch.cost.step import Step

    step = Step(config)
    memory = PeakMemory(step.device)
    for _ in range(2):
        step.run()
    return memory.bytes()


def times_table(report: dict[str, Any]) -> Table:
    """A row per variant."""
    table = Table(title=f"One training step, median (lowest–highest) of {report['rounds']} rounds")
    for column in ("variant", "step, s", *(f"{part}, s" for part in PARTS), "peak MiB", "pixels/s"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, row in report["variants"].items():
        step = row["step_seconds"]
        table.add_row(
            name,
            f"{step['median']:.3f} ({step['low']:.3f}–{step['high']:.3f})",
            *(f"{row[f'{part}_seconds']['median']:.3f}" for part in PARTS),
            f"{row['peak_memory_bytes'] / 2**20:.0f}",
            f"{row['pixels_per_second']:,.0f}",
        )
    return table


def ratios_table(report: dict[str, Any]) -> Table:
    """A row per pair of variants, the slower one first."""
    table = Table(title="Ratios, paired within rounds", caption="interval: order statistics around the median")
    for column in ("pair", "step time", "interval", "peak memory"):
        table.add_column(column, justify="left" if column == "pair" else "right")
    for pair, row in report["ratios"].items():
        step = row["step_seconds"]
        if step["median"] >= 1:
            shown = "no difference shown" if step["low"] <= 1 <= step["high"] else f"{step['median']:.2f}"
            table.add_row(pair, shown, f"{step['low']:.2f}–{step['high']:.2f}", f"{row['peak_memory_bytes']:.2f}")
    return table


def _list(key: str, text: str) -> list[str]:
    """A list as Hydra writes it: `[a,b]`."""
    if not re.fullmatch(r"\[.*\]", text, re.DOTALL):
        raise InputError(f"{key}={text}: not a list; write {key}='[a,b]'")
    if "=" not in text:
        return [str(item) for item in yaml.safe_load(text)]
    return [item.strip() for item in re.split(r",(?![^\[{]*[\]}])", text[1:-1]) if item.strip()]


def _count(key: str, text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise InputError(f"{key}={text}: not a whole number above 0")
    return int(text)


def _path(text: str | None) -> Path | None:
    if text is not None and not Path(text).absolute().parent.is_dir():
        raise InputError(f"output={text}: there is no folder {Path(text).parent}")
    return None if text is None else Path(text)


if __name__ == "__main__":
    main()

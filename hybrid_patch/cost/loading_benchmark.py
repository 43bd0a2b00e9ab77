"""How fast batches are loaded: `python -m hybrid_patch.cost.loading_benchmark steps=200 [step=SECONDS] [overrides]`.

Opens the data, waits for the first batch, and goes on for some steps, with the worker processes of `runtime.workers`,
or one if that is 0. Nothing is trained. CPU time is that of the workers, so that others on the machine do not count.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from hybrid_patch.config.compose import compose
from hybrid_patch.config.literal import output_file, refuse_flags, take_keys, take_paths
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.formatting import format_interval
from hybrid_patch.errors import InputError, input_errors_end
from hybrid_patch.runs.atomic_files import write_json

if TYPE_CHECKING:
    from hybrid_patch.cost.timing import Interval
    from hybrid_patch.data.batch import Batch
    from hybrid_patch.data.loader import TrainingSteps
    from hybrid_patch.data.source import BrokenSampleError

USAGE = f"""{__doc__}
  steps=N             batches to load (default 200)
  step=SECONDS        of a training step: how many workers keep up with it; step=measured measures it, alone and with
                      loading on, in turns: how much of its speed is left
  output=FILE.json    write the report
  key=value           overrides, as in hybrid_patch.train: data=olmoearth data.root=… runtime.workers=2
"""
DEFAULTS = {"steps": "200", "step": ""}
WARM_UP = 10
"""Batches that are loaded before the measurement."""
LOOKS = 10
"""How often the workers' memory is read."""
READ_AHEAD = 2
"""Batches per worker that torch's DataLoader holds ready."""
MEASURED = "measured"
ROUNDS, BLOCK = 7, 20
"""How often steps alone and steps with loading take turns, and how many of each."""


class Request(NamedTuple):
    """What the command line asks for.

    Attributes:
        config: with at least one worker, and more training steps than are loaded, so that no worker ends before.
        steps: batches to load.
        step: seconds of a training step, if given.
        measured: whether a step is measured instead.
        output: a file.
    """

    config: Config
    steps: int
    step: float | None
    measured: bool
    output: Path | None


def main() -> None:
    """The command."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(USAGE)
        return
    with input_errors_end():
        request = read(sys.argv[1:])
        report = measure(request)
    Console(width=None if sys.stdout.isatty() else 120).print(table(report))
    if request.output is not None:
        write_json(request.output, report)


def read(arguments: Sequence[str]) -> Request:
    """The request of a command line; raises InputError."""
    refuse_flags(arguments, (*DEFAULTS, "output"))
    paths, rest = take_paths(arguments, ["output"])
    own, overrides = take_keys(rest, DEFAULTS)
    if not own["steps"].isdigit() or int(own["steps"]) < LOOKS:
        raise InputError(f"steps={own['steps']}: takes a whole number of {LOOKS} or more")
    measured = own["step"] == MEASURED
    try:
        step = float(own["step"]) if own["step"] and not measured else None
    except ValueError:
        step = math.nan
    if step is not None and not 0 < step < math.inf:
        raise InputError(f"step={own['step']}: takes seconds above 0, or {MEASURED}")
    config, steps = compose([*overrides, "logger=none"]), int(own["steps"])
    workers = max(config.runtime.workers, 1)
    config = dataclasses.replace(
        config,
        trainer=dataclasses.replace(config.trainer, steps=1 + WARM_UP + steps + 3 * workers),
        runtime=dataclasses.replace(config.runtime, workers=workers),
    )
    return Request(config, steps, step, measured, output_file(paths))


def measure(request: Request) -> dict[str, Any]:
    """The report, as plain values. Raises InputError for data that cannot be read."""
    from hybrid_patch.data.loader import TrainingSteps
    from hybrid_patch.data.source import open_source
    from hybrid_patch.runs.provenance import provenance

    config, began = request.config, time.perf_counter()
    dataset = TrainingSteps(open_source(config.data), config, rank=0, world=1)
    opened = time.perf_counter()
    loading = _time_loading(dataset, request.steps)
    relative = relative_speed(config, ROUNDS, BLOCK) if request.measured else None
    step_seconds = relative["plain"].median if relative else request.step
    return {
        "machine": provenance(),
        "samples": len(dataset.indices),
        "modalities": list(dataset.source.modalities),
        "tile": config.data.tile,
        "timesteps": config.data.timesteps,
        "batch_size": config.trainer.batch_size,
        "workers": config.runtime.workers,
        "steps": request.steps,
        "open_seconds": opened - began,
        "first_batch_seconds": loading.first_seconds,
        "samples_per_second": request.steps * config.trainer.batch_size / loading.seconds,
        "samples_per_core_second": request.steps * config.trainer.batch_size / loading.cpu_seconds,
        "worker_memory_bytes": loading.worker_memory,
        "step_seconds": step_seconds,
        "workers_needed": None
        if step_seconds is None
        else math.ceil(loading.cpu_seconds / request.steps / step_seconds),
        "loaded_step": relative and {name: value._asdict() for name, value in relative.items()},
    }


class LoadingTimes(NamedTuple):
    """Seconds until the first batch, then of loading and of the workers' CPU time; their memory now and then, bytes."""

    first_seconds: float
    seconds: float
    cpu_seconds: float
    worker_memory: list[int]


def _time_loading(dataset: "TrainingSteps", steps: int) -> LoadingTimes:
    from hybrid_patch.data.loader import batches

    began = time.perf_counter()
    items = iter(batches(dataset, 0, dataset.config.runtime.workers, pin_memory=False))
    _next_batch(items)
    first_seconds = time.perf_counter() - began
    workers = psutil.Process().children()
    for _ in range(WARM_UP):
        _next_batch(items)
    memory = []
    began, cpu = time.perf_counter(), _cpu(workers)
    for number in range(1, steps + 1):
        _next_batch(items)
        if number * LOOKS // steps > (number - 1) * LOOKS // steps:
            memory.append(max(worker.memory_full_info().uss for worker in workers))
    return LoadingTimes(first_seconds, time.perf_counter() - began, _cpu(workers) - cpu, memory)


def _cpu(workers: Sequence[psutil.Process]) -> float:
    """Seconds of CPU time that they have taken."""
    return sum(times.user + times.system for times in (worker.cpu_times() for worker in workers))


def relative_speed(config: Config, rounds: int, block: int) -> dict[str, "Interval"]:
    """Throughput with data loading, relative to without.

    Blocks of steps on one batch and of steps on loaded batches take turns and are paired by rounds. What workers have
    read ahead during the plain steps is used up before a block of loaded steps is timed.

    Returns:
        `plain` and `loaded`, seconds of a step, and `share`, plain / loaded.
    """
    from hybrid_patch.cost.step import Step
    from hybrid_patch.cost.timing import Clock, interval, ratio
    from hybrid_patch.data.loader import TrainingSteps, batches
    from hybrid_patch.data.prefetch import on_device
    from hybrid_patch.data.source import open_source

    read_ahead = READ_AHEAD * config.runtime.workers + 1
    steps = rounds * (block + read_ahead) + read_ahead  # no worker may end before
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, steps=steps))
    step = Step(config)
    dataset = TrainingSteps(open_source(config.data), config, rank=0, world=1)
    items = on_device(batches(dataset, 0, config.runtime.workers, pin_memory=step.device.type == "cuda"), step.device)
    for _ in range(2):
        step.run()
    plain, loaded = [], []
    for _ in range(rounds):
        clock = Clock(step.device)
        for _ in range(block):
            step.run()
        plain.append(clock.lap() / block)
        for _ in range(read_ahead):
            step.run_on(_next_batch(items))
        clock.lap()
        for _ in range(block):
            step.run_on(_next_batch(items))
        loaded.append(clock.lap() / block)
    return {"plain": interval(plain), "loaded": interval(loaded), "share": ratio(plain, loaded)}


def _next_batch(items: "Iterator[Batch | BrokenSampleError]") -> "Batch":
    """The next batch; raises InputError for a sample that cannot be read."""
    from hybrid_patch.data.source import BrokenSampleError

    item = next(items)
    if isinstance(item, BrokenSampleError):
        raise InputError(f"{item}; data.on_error=skip goes on without")
    return item


def table(report: dict[str, Any]) -> Table:
    """The report for people."""
    memory = [number / 2**20 for number in report["worker_memory_bytes"]]
    rows = [
        ("training samples", f"{report['samples']:,}"),
        ("modalities", ", ".join(report["modalities"])),
        ("crop", f"{report['tile']} × {report['tile']} pixels, {report['timesteps']} timesteps"),
        ("opening the data", f"{report['open_seconds']:.2f} s"),
        ("the first batch after it", f"{report['first_batch_seconds']:.2f} s"),
        ("samples per second", f"{report['samples_per_second']:.1f} with runtime.workers={report['workers']}"),
        ("samples per second of CPU time", f"{report['samples_per_core_second']:.1f}"),
        ("memory of the largest worker", f"{memory[0]:.0f} MiB at first, {memory[-1]:.0f} at the end"),
    ]
    if report["workers_needed"] is not None:
        rows.append((f"workers for a step of {report['step_seconds']:.3g} s", f"{report['workers_needed']}"))
    if report["loaded_step"] is not None:
        rows += [
            ("a step alone, s", format_interval(report["loaded_step"]["plain"], ".3g")),
            ("a step and the wait for its batch, s", format_interval(report["loaded_step"]["loaded"], ".3g")),
            ("speed with loading, relative to without", format_interval(report["loaded_step"]["share"], ".1%")),
        ]
    found = Table(title=f"Loading {report['steps']} batches of {report['batch_size']}", show_header=False)
    for row in rows:
        found.add_row(*row)
    return found


if __name__ == "__main__":
    main()

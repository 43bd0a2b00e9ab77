"""Measure how fast batches are loaded.

Opens the data, waits for the first batch, and loads some more, with `runtime.workers` worker processes, at least one.
Nothing is trained. CPU time is that of the workers, so that other processes on the machine do not count.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import psutil
from pydantic import Field
from rich.table import Table

from hybrid_patch.config.command import run_command
from hybrid_patch.config.compose import compose
from hybrid_patch.config.options import Option, OutputFile, Overrides, Positional, Seconds
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.formatting import format_interval, publish
from hybrid_patch.errors import InputError

if TYPE_CHECKING:
    from hybrid_patch.cost.timing import Interval
    from hybrid_patch.data.batch import Batch
    from hybrid_patch.data.loader import TrainingSteps
    from hybrid_patch.data.source import BrokenSampleError

WARM_UP = 10
"""Batches that are loaded before the measurement."""
LOOKS = 10
"""How often the workers' memory is read."""
READ_AHEAD = 2
"""Batches per worker that torch's DataLoader holds ready."""
ROUNDS, BLOCK = 7, 20
"""How often steps alone and steps with loading take turns, and how many of each."""


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """What the command line asks for."""

    steps: Annotated[int, Field(ge=LOOKS), Option("N", "batches to load")] = 200
    step: Annotated[
        Seconds | Literal["measured"] | None,
        Option(
            "SECONDS",
            "of a training step: how many workers keep up with it; step=measured measures it, alone and with loading "
            "on, in turns: how much of its speed is left",
        ),
    ] = None
    output: Annotated[OutputFile | None, Positional("FILE.json", "write the report")] = None
    overrides: Annotated[
        tuple[str, ...],
        Overrides({"key=value": "overrides, as in hybrid-patch train: data=olmoearth data.root=DIR runtime.workers=2"}),
    ] = ()

    def __post_init__(self) -> None:
        self.config  # noqa: B018  # its errors before anything is measured

    @cached_property
    def config(self) -> Config:
        """With at least one worker, and more training steps than are loaded, so that no worker ends before."""
        config = compose([*self.overrides, "logger=none"])
        workers = max(config.runtime.workers, 1)
        steps = 1 + WARM_UP + self.steps + 3 * workers
        return dataclasses.replace(
            config,
            trainer=dataclasses.replace(config.trainer, steps=steps),
            runtime=dataclasses.replace(config.runtime, workers=workers),
        )


def main() -> None:
    """The command."""
    run_command("python -m hybrid_patch.cost.loading_benchmark", __doc__, LoadingOptions, loading_command)


def loading_command(options: LoadingOptions) -> None:
    """Measure, print the table, write the report."""
    report = measure(options)
    publish(report, [table(report)], options.output)


def measure(options: LoadingOptions) -> dict[str, Any]:
    """The report, as plain values. Raises InputError for data that cannot be read."""
    from hybrid_patch.data.loader import TrainingSteps
    from hybrid_patch.data.source import open_source
    from hybrid_patch.runs.provenance import provenance

    config, began = options.config, time.perf_counter()
    dataset = TrainingSteps(open_source(config.data), config, rank=0, world=1)
    opened = time.perf_counter()
    loading = _time_loading(dataset, options.steps)
    relative = relative_speed(config, ROUNDS, BLOCK) if options.step == "measured" else None
    given = None if options.step == "measured" else options.step
    step_seconds = relative["plain"].median if relative else given
    return {
        "machine": provenance(),
        "samples": len(dataset.indices),
        "modalities": list(dataset.source.modalities),
        "tile": config.data.tile,
        "timesteps": config.data.timesteps,
        "batch_size": config.trainer.batch_size,
        "workers": config.runtime.workers,
        "steps": options.steps,
        "open_seconds": opened - began,
        "first_batch_seconds": loading.first_seconds,
        "samples_per_second": options.steps * config.trainer.batch_size / loading.seconds,
        "samples_per_core_second": options.steps * config.trainer.batch_size / loading.cpu_seconds,
        "worker_memory_bytes": loading.worker_memory,
        "step_seconds": step_seconds,
        "workers_needed": None
        if step_seconds is None
        else math.ceil(loading.cpu_seconds / options.steps / step_seconds),
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
    loading = Table(title=f"Loading {report['steps']} batches of {report['batch_size']}", show_header=False)
    for row in rows:
        loading.add_row(*row)
    return loading


if __name__ == "__main__":
    main()

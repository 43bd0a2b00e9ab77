"""Measure how fast batches are loaded.

Opens the data (say, data=olmoearth data.root=DIR), waits for the first batch, and loads some more, with
`runtime.workers` worker processes, at least one. Nothing is trained. CPU time is that of the workers, so that other
processes on the machine do not count.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import psutil
from pydantic import Field
from rich.table import Table

from hybrid_patch.config.command import run_command
from hybrid_patch.config.compose import compose
from hybrid_patch.config.options import Option, OutputFile, Positional, Seconds
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.benchmark import RunOverrides
from hybrid_patch.cost.formatting import format_interval, publish
from hybrid_patch.cost.least_memory import check_loading
from hybrid_patch.errors import InputError

if TYPE_CHECKING:
    from hybrid_patch.data.batch import Batch
    from hybrid_patch.data.loader import TrainingSteps
    from hybrid_patch.data.source import BrokenSampleError

WARM_UP = 10
"""Batches that are loaded before the measurement."""
LOOKS = 10
"""How often the workers' memory is read, at least."""
READ_AHEAD = 2
"""Batches per worker that torch's DataLoader holds ready."""
ENDLESS = 10**9
"""Steps of a training whose workers do not end before the measurement does."""
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
    overrides: RunOverrides = ()

    def __post_init__(self) -> None:
        self.config  # noqa: B018  # its errors before anything is measured

    @cached_property
    def config(self) -> Config:
        """With at least one worker, and without an end."""
        config = compose([*self.overrides, "logger=none", f"trainer.steps={ENDLESS}"])
        workers = max(config.runtime.workers, 1)
        return dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, workers=workers))


def loading_command(options: LoadingOptions) -> None:
    """Measure, print the table, write the report."""
    report = measure(options)
    publish(report, [table(report)], options.output)


def measure(options: LoadingOptions) -> dict[str, Any]:
    """The report, as plain values. Raises InputError for data that cannot be read, or not in this memory."""
    check_loading(options.config)
    from hybrid_patch.data.loader import TrainingSteps
    from hybrid_patch.data.source import open_source

    config, began = options.config, time.perf_counter()
    dataset = TrainingSteps(open_source(config.data), config, rank=0, world=1)
    report: dict[str, Any] = {
        "samples": len(dataset.indices),
        "modalities": list(dataset.source.modalities),
        "tile": config.data.tile,
        "timesteps": config.data.timesteps,
        "batch_size": config.trainer.batch_size,
        "workers": config.runtime.workers,
        "steps": options.steps,
        "open_seconds": time.perf_counter() - began,
        **_time_loading(dataset, options.steps),
        "step_seconds": options.step,
        "workers_needed": None,
        "loaded_step": None,
    }
    if options.step == "measured":
        report["loaded_step"] = relative_speed(dataset)
        report["step_seconds"] = report["loaded_step"]["plain"]["median"]
    if report["step_seconds"] is not None:
        core_seconds = config.trainer.batch_size / report["samples_per_core_second"]
        report["workers_needed"] = math.ceil(core_seconds / report["step_seconds"])
    return report


def _time_loading(dataset: "TrainingSteps", steps: int) -> dict[str, Any]:
    """Seconds until the first batch, then the speed of loading, per second and per second of the workers' CPU time.

    Also bytes of the largest worker, now and then.
    """
    from hybrid_patch.data.loader import batches

    began = time.perf_counter()
    items = _whole(batches(dataset, 0, dataset.config.runtime.workers, pin_memory=False))
    next(items)
    first_seconds = time.perf_counter() - began
    workers = psutil.Process().children()

    def cpu_seconds() -> float:
        return sum(sum(worker.cpu_times()[:2]) for worker in workers)

    for _ in range(WARM_UP):
        next(items)
    memory = []
    began, cpu = time.perf_counter(), cpu_seconds()
    for number in range(1, steps + 1):
        next(items)
        if number % (steps // LOOKS) == 0:
            memory.append(max(worker.memory_full_info().uss for worker in workers))
    samples = steps * dataset.config.trainer.batch_size
    return {
        "first_batch_seconds": first_seconds,
        "samples_per_second": samples / (time.perf_counter() - began),
        "samples_per_core_second": samples / (cpu_seconds() - cpu),
        "worker_memory_bytes": memory,
    }


def relative_speed(dataset: "TrainingSteps") -> dict[str, dict[str, float]]:
    """Throughput with data loading, relative to without.

    Blocks of steps on one batch and of steps on loaded batches take turns and are paired by rounds. What workers have
    read ahead during the plain steps is used up before a block of loaded steps is timed.

    Returns:
        `plain` and `loaded`, seconds of a step, and `share`, plain / loaded.
    """
    from hybrid_patch.cost.step import Step
    from hybrid_patch.cost.timing import Clock, interval, ratio
    from hybrid_patch.data.loader import batches
    from hybrid_patch.data.prefetch import on_device

    step, workers = Step(dataset.config), dataset.config.runtime.workers
    items = _whole(on_device(batches(dataset, 0, workers, step.device.type == "cuda"), step.device))
    clock = Clock(step.device)

    def seconds(run: Callable[[], object], times: int = BLOCK) -> float:
        clock.lap()
        for _ in range(times):
            run()
        return clock.lap() / times

    def loaded_step() -> None:
        step.run_on(next(items))

    seconds(step.run, 2)
    plain, loaded = [], []
    for _ in range(ROUNDS):
        plain.append(seconds(step.run))
        seconds(loaded_step, READ_AHEAD * workers + 1)
        loaded.append(seconds(loaded_step))
    figures = {"plain": interval(plain), "loaded": interval(loaded), "share": ratio(plain, loaded)}
    return {name: figure._asdict() for name, figure in figures.items()}


def _whole(items: "Iterable[Batch | BrokenSampleError]") -> "Iterator[Batch]":
    """The batches; raises InputError for a sample that cannot be read."""
    from hybrid_patch.data.batch import Batch

    for item in items:
        if not isinstance(item, Batch):
            raise InputError(f"{item}; data.on_error=skip goes on without")
        yield item


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
    run_command("hybrid-patch benchmark-loading", __doc__, LoadingOptions, loading_command)

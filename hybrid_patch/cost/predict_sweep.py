"""Predictions of many runs, shared out over processes; equal shapes are worked out once."""

import dataclasses
import functools
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple, TypeVar

from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.predict import Prediction, Stage, modalities_of, stage_cost, stages_of
from hybrid_patch.errors import InputError

A = TypeVar("A")
B = TypeVar("B")

FEW = 2
"""Up to so many items are done in this process: starting others takes seconds."""


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep: its arguments, and its prediction, or why it cannot run."""

    arguments: Sequence[str]
    prediction: Prediction | None = None
    error: str = ""


class PlannedSweep(NamedTuple):
    """The runs of a sweep in order, and how many stages of different shapes were worked out for them."""

    runs: list[PlannedRun]
    distinct_shapes: int


def predict_sweep(
    lines: Sequence[Sequence[str]], configs: Sequence[Config | InputError], growth: bool, processes: int | None = None
) -> PlannedSweep:
    """The predictions of a sweep's runs: the arguments of each, and the config that they make, or what is wrong.

    An invalid run does not stop the others. The other arguments are those of `predict_each`.
    """
    predictions, distinct_shapes = predict_each(configs, growth, processes)
    runs = [
        PlannedRun(line, error=str(prediction)) if isinstance(prediction, InputError) else PlannedRun(line, prediction)
        for line, prediction in zip(lines, predictions, strict=True)
    ]
    return PlannedSweep(runs, distinct_shapes)


def predict_each(
    configs: Sequence[Config | InputError], growth: bool, processes: int | None = None
) -> tuple[list[Prediction | InputError], int]:
    """The predictions of runs in order, or why they cannot run, and how many stages of different shapes there were.

    Args:
        configs: one that is an error stays that error.
        growth: also how memory grows with the batch.
        processes: that share the work; None: one per processor.
    """
    source = _Modalities()
    runs = [source.run(config) for config in configs]
    stages = {key: stage for run in runs if isinstance(run, _Run) for key, stage in run.stages}
    work = functools.partial(stage_cost, growth=growth)
    costs = dict(zip(stages, _map(work, list(stages.values()), processes or len(os.sched_getaffinity(0))), strict=True))
    predictions = [
        Prediction(run.config, tuple(costs[key] for key, _ in run.stages)) if isinstance(run, _Run) else run
        for run in runs
    ]
    return predictions, len(stages)


class _Run(NamedTuple):
    """A run whose config is good, and its stages with their keys."""

    config: Config
    stages: list[tuple[str, Stage]]


class _Modalities:
    """The modalities of data sources, each opened once at most."""

    def __init__(self) -> None:
        self._opened: dict[str, Mapping[str, Modality] | InputError] = {}

    def run(self, config: Config | InputError) -> _Run | InputError:
        """The run of a config, if it and its source are good."""
        if isinstance(config, InputError):
            return config
        key = repr(config.data)
        if key not in self._opened:
            try:
                self._opened[key] = modalities_of(config.data)
            except InputError as error:
                self._opened[key] = error
        modalities = self._opened[key]
        if isinstance(modalities, InputError):
            return modalities
        return _Run(config, [(stage.key(), stage) for stage in stages_of(config, modalities)])


def _map(function: Callable[[A], B], items: Sequence[A], processes: int) -> list[B]:
    """The function of each item, by several processes where there are enough items."""
    workers = min(processes, len(items))
    if workers == 1 or len(items) <= FEW:
        return [function(item) for item in items]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # the slow imports are done once, and shared
    with ProcessPoolExecutor(workers, context) as pool:
        return list(pool.map(function, items))

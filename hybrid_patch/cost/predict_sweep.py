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
    opened: dict[str, Mapping[str, Modality] | InputError] = {}
    runs = [_keyed_stages(config, opened) for config in configs]
    stages = {key: stage for run in runs if not isinstance(run, InputError) for key, stage in run}
    work = functools.partial(stage_cost, growth=growth)
    costs = dict(zip(stages, _map(work, list(stages.values()), processes or len(os.sched_getaffinity(0))), strict=True))
    predictions = [
        run if isinstance(run, InputError) else Prediction(run[0][1].config, tuple(costs[key] for key, _ in run))
        for run in runs
    ]
    return predictions, len(stages)


def _keyed_stages(
    config: Config | InputError, opened: dict[str, Mapping[str, Modality] | InputError]
) -> list[tuple[str, Stage]] | InputError:
    """A run's stages with their keys, or what is wrong with it.

    Args:
        opened: the modalities of the data sources so far, by their config; each is opened once.
    """
    if isinstance(config, InputError):
        return config
    source = repr(config.data)
    if source not in opened:
        try:
            opened[source] = modalities_of(config.data)
        except InputError as error:
            opened[source] = error
    modalities = opened[source]
    if isinstance(modalities, InputError):
        return modalities
    return [(stage.key(), stage) for stage in stages_of(config, modalities)]


def _map(function: Callable[[A], B], items: Sequence[A], processes: int) -> list[B]:
    """The function of each item, by several processes where there are enough items."""
    workers = min(processes, len(items))
    if workers == 1 or len(items) <= FEW:
        return [function(item) for item in items]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # the slow imports are done once, and shared
    with ProcessPoolExecutor(workers, context) as pool:
        return list(pool.map(function, items))

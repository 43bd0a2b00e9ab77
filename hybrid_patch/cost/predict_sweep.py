"""The predictions of many runs: worked out by several processes, equal shapes once."""

import dataclasses
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple, TypeVar

from hybrid_patch.config.compose import Sources
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sweep import each_config
from hybrid_patch.cost.predict import Prediction, Stage, StageCost, modalities_of, stage_cost, stages_of
from hybrid_patch.errors import InputError

A = TypeVar("A")
B = TypeVar("B")

FEW = 2
"""Things that are done in this process: others take seconds to start."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a sweep: its arguments, and what it will take, or why it cannot run."""

    arguments: Sequence[str]
    prediction: Prediction | None = None
    error: str = ""


class Planned(NamedTuple):
    """The members in order, and how many stages of different shapes were worked out for them."""

    members: list[Member]
    distinct: int


def plan(lines: Sequence[Sequence[str]], growth: bool, processes: int | None = None) -> Planned:
    """The predictions of the runs that some lines of arguments describe. A bad line stops no other.

    Args:
        growth: also how memory grows with the batch.
        processes: that work at it; None: as many as there are processors for this one.
    """
    return plan_configs(lines, each_config(lines, Sources()), growth, processes)


def plan_configs(
    lines: Sequence[Sequence[str]],
    configs: Sequence[Config | InputError],
    growth: bool,
    processes: int | None = None,
) -> Planned:
    """The same, of lines that are composed already."""
    found, distinct = predictions(configs, growth, processes)
    members = [
        Member(line, error=str(one)) if isinstance(one, InputError) else Member(line, one)
        for line, one in zip(lines, found, strict=True)
    ]
    return Planned(members, distinct)


def predictions(
    configs: Sequence[Config | InputError], growth: bool, processes: int | None = None
) -> tuple[list[Prediction | InputError], int]:
    """The predictions of runs in order, or why they cannot run, and how many stages of different shapes there were.

    A config that is an error stays that error. The other arguments are those of `plan`.
    """
    source = _Modalities()
    runs = [source.run(config) for config in configs]
    stages = {key: stage for run in runs if isinstance(run, _Run) for key, stage in run.stages}
    found = _each(_Worker(growth), list(stages.values()), processes or len(os.sched_getaffinity(0)))
    costs = dict(zip(stages, found, strict=True))
    predicted = [
        Prediction(run.config, tuple(costs[key] for key, _ in run.stages)) if isinstance(run, _Run) else run
        for run in runs
    ]
    return predicted, len(stages)


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


@dataclasses.dataclass(frozen=True)
class _Worker:
    """`stage_cost`, as a worker process takes it."""

    growth: bool

    def __call__(self, stage: Stage) -> StageCost:
        return stage_cost(stage, self.growth)


def _each(function: Callable[[A], B], items: Sequence[A], processes: int) -> list[B]:
    """The function of each item, by several processes where there are enough items."""
    workers = min(processes, len(items))
    if workers == 1 or len(items) <= FEW:
        return [function(item) for item in items]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # the slow imports are done once, and shared
    with ProcessPoolExecutor(workers, context) as pool:
        return list(pool.map(function, items))

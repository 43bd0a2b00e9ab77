"""What of a training step's speed is left where its batches are loaded meanwhile."""

from collections.abc import Iterator
from typing import NamedTuple

from hybrid_patch.config.schema import Config
from hybrid_patch.cost.step import Step
from hybrid_patch.cost.timing import Clock, Interval, interval, ratio
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.loader import TrainingSteps, batches
from hybrid_patch.data.prefetch import on_device
from hybrid_patch.data.source import BrokenSampleError, open_source
from hybrid_patch.errors import InputError

READ_AHEAD = 2
"""Batches per worker that torch's DataLoader holds ready."""


class Loaded(NamedTuple):
    """Seconds of a step on one batch that is there, of one with the wait for its own, and the share of speed left."""

    plain: Interval
    loaded: Interval
    share: Interval


def compare(config: Config, rounds: int, steps: int) -> Loaded:
    """Steps on one batch and steps on loaded ones, in blocks that take turns, paired by rounds.

    What workers have read ahead while the plain steps ran is used up before a block of loaded steps is timed. Needs
    `batches_needed` batches of a training (`trainer.steps`).

    Raises InputError for data that cannot be read.
    """
    step = Step(config)
    dataset = TrainingSteps(open_source(config.data), config, rank=0, world=1)
    items = on_device(batches(dataset, 0, config.runtime.workers, pin_memory=step.device.type == "cuda"), step.device)
    for _ in range(2):
        step.run()
    plain, loaded = [], []
    for _ in range(rounds):
        clock = Clock(step.device)
        for _ in range(steps):
            step.run()
        plain.append(clock.lap() / steps)
        for _ in range(_read_ahead(config)):
            step.run_on(_next(items))
        clock.lap()
        for _ in range(steps):
            step.run_on(_next(items))
        loaded.append(clock.lap() / steps)
    return Loaded(interval(plain), interval(loaded), ratio(plain, loaded))


def batches_needed(config: Config, rounds: int, steps: int) -> int:
    """Batches that `compare` loads, and those that are read ahead at its end."""
    return rounds * (steps + _read_ahead(config)) + _read_ahead(config)


def _read_ahead(config: Config) -> int:
    return READ_AHEAD * config.runtime.workers + 1


def _next(items: Iterator[Batch | BrokenSampleError]) -> Batch:
    item = next(items)
    if isinstance(item, BrokenSampleError):
        raise InputError(f"{item}; data.on_error=skip goes on without")
    return item

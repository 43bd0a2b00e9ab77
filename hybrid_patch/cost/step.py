"""A training step on a fixed batch, to be measured repeatedly."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from hybrid_patch.config.curriculum import sizes_at, tile_for
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.config.target_options import SelfTarget
from hybrid_patch.cost.timing import Clock
from hybrid_patch.data.batch import Batch, Taught
from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError
from hybrid_patch.train.distributed import accelerator
from hybrid_patch.train.optimizer import build_optimizer
from hybrid_patch.train.step import Phase, TrainingModule, TrainingStep, label_classes

THREADS = torch.get_num_threads()
"""Threads of a config that names no number."""


def training_step(config: Config, module: TrainingModule) -> TrainingStep:
    """The step of a config in one process."""
    optimizer = build_optimizer(module, config.optimizer)
    return TrainingStep(module, optimizer, config.optimizer.clip_norm, config.runtime.accumulate)


def untaught(config: Config, modalities: Mapping[str, Modality], samples: int) -> Taught | None:
    """Zeros in place of what the teacher of `target=self` says; None with another target."""
    target = config.target
    if not isinstance(target, SelfTarget):
        return None
    side, width = target.window, min(target.numbers, config.model.encoder.width)
    numbers = {
        name: torch.zeros(samples, side, side, config.data.timesteps if m.temporal else 1, len(m.band_sets), width)
        for name, m in modalities.items()
        if not m.decode_only
    }
    return Taught({name: x.half() for name, x in numbers.items()}, torch.zeros(samples, 2, dtype=torch.long))


class Step:
    """The training step of a config on its first batch, of `pixels` over all timesteps."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = torch.device(accelerator(config.runtime))
        source = open_source(config.data)
        batch = TrainingSteps(source, config, 0, 1)[0]
        if not isinstance(batch, Batch):
            raise InputError(str(batch))
        batch = dataclasses.replace(batch, taught=untaught(config, source.modalities, config.trainer.batch_size))
        self.batch = batch.map(lambda x: x.to(self.device))
        self.sizes = sizes_at(config, 0)
        torch.manual_seed(config.seed)
        self.module = TrainingModule(config, source.modalities, label_classes(config, source)).to(self.device)
        self.step = training_step(config, self.module)
        self.step.phase = self._timed
        self.pixels = config.trainer.batch_size * tile_for(config, self.sizes) ** 2 * config.data.timesteps
        self.parameters = sum(self.module.parameter_counts().values())
        self.clock, self.seconds = Clock(self.device), defaultdict[str, float](float)

    def run(self) -> dict[str, float]:
        """One step; the seconds of its phases."""
        return self.run_on(self.batch)

    def run_on(self, batch: Batch) -> dict[str, float]:
        """One step on another batch, which must be on the device already."""
        torch.set_num_threads(self.config.runtime.threads or THREADS)  # steps of several configs take turns
        self.clock, self.seconds = Clock(self.device), defaultdict(float)
        self.step.run(dataclasses.replace(batch, taught=self.batch.taught), self.sizes)
        self.seconds["optimizer"] = self.clock.lap()
        return self.seconds

    @contextmanager
    def _timed(self, name: Phase) -> Iterator[None]:
        """Times a pass, with what came before it; the rest of the step is the optimizer's."""
        yield
        if name != "optimizer":
            self.seconds[name] += self.clock.lap()

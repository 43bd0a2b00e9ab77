"""A training step on a fixed batch, to be measured repeatedly."""

import torch
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes, sizes_at, tile_for
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.timing import Clock
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError
from hybrid_patch.train.distributed import accelerator
from hybrid_patch.train.optimizer import build_optimizer
from hybrid_patch.train.step import TrainingModule, TrainingStep

THREADS = torch.get_num_threads()
"""Threads of a config that names no number."""


class Step:
    """The training step of a config on its first batch.

    Attributes:
        pixels: pixels of a batch, over all timesteps.
        parameters: number of trainable parameters.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = torch.device(accelerator(config.runtime))
        source = open_source(config.data)
        batch = TrainingSteps(source, config, 0, 1)[0]
        if not isinstance(batch, Batch):
            raise InputError(str(batch))
        self.batch = batch.map(lambda x: x.to(self.device))
        self.sizes = sizes_at(config, 0)
        torch.manual_seed(config.seed)
        self.module = TrainingModule(config, source.modalities).to(self.device)
        self.step = _TimedStep(config, self.module, self.device)
        self.pixels = config.trainer.batch_size * tile_for(config, self.sizes) ** 2 * config.data.timesteps
        self.parameters = sum(self.module.parameter_counts().values())

    def run(self) -> dict[str, float]:
        """One step; the seconds of its parts."""
        return self.run_on(self.batch)

    def run_on(self, batch: Batch) -> dict[str, float]:
        """One step on another batch, which must be on the device already."""
        torch.set_num_threads(self.config.runtime.threads or THREADS)  # steps of several configs take turns
        return self.step.timed(batch, self.sizes)


class _TimedStep(TrainingStep):
    """The step of a config in one process, timed."""

    def __init__(self, config: Config, module: TrainingModule, device: torch.device) -> None:
        optimizer = build_optimizer(module, config.optimizer)
        super().__init__(module, optimizer, config.optimizer.clip_norm, config.runtime.accumulate)
        self.device = device

    def timed(self, batch: Batch, sizes: PatchSizes) -> dict[str, float]:
        """One step; the seconds of its parts."""
        self.clock, self.seconds = Clock(self.device), {"forward": 0.0, "backward": 0.0}
        self.run(batch, sizes)
        return {**self.seconds, "optimizer": self.clock.lap()}

    def backward(self, loss: Tensor) -> None:
        """The time before it is that of the forward pass."""
        self.seconds["forward"] += self.clock.lap()
        loss.backward()
        self.seconds["backward"] += self.clock.lap()

"""A training step on fixed data, to be measured again and again."""

import torch
from torch import Tensor

from hybrid_patch.config.curriculum import sizes_at, tile_for
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.timing import Clock
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError
from hybrid_patch.loss.objective import Objective
from hybrid_patch.train.distributed import accelerator
from hybrid_patch.train.optimizer import optimizer_of
from hybrid_patch.train.step import backpropagate

THREADS = torch.get_num_threads()
"""Of a config that does not say how many."""


class Step:
    """The first batch of a config, its objective, and its optimizer.

    Attributes:
        pixels: pixels of a batch, over all timesteps.
        parameters: trainable numbers.
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
        self.objective = Objective(config, source.modalities).to(self.device)
        self.optimizer = optimizer_of(self.objective, config.optimizer)
        self.pixels = config.trainer.batch_size * tile_for(config, self.sizes) ** 2 * config.data.timesteps
        self.parameters = sum(self.objective.parameter_counts().values())

    def run(self) -> dict[str, float]:
        """One step; the seconds of its parts."""
        return self.run_on(self.batch)

    def run_on(self, batch: Batch) -> dict[str, float]:
        """One step on another batch, which is on the device already."""
        torch.set_num_threads(self.config.runtime.threads or THREADS)  # steps of several configs take turns
        clock = Clock(self.device)
        seconds = {"forward": 0.0, "backward": 0.0}

        def backward(loss: Tensor) -> None:
            seconds["forward"] += clock.lap()
            loss.backward()
            seconds["backward"] += clock.lap()

        parts = self.config.runtime.accumulate
        backpropagate(self.objective, self.objective.shares, batch, self.sizes, parts, backward)
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {**seconds, "optimizer": clock.lap()}

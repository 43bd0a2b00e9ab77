"""Which weights of a fine-tuning score best on validation tiles, and whether to stop."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from hybrid_patch.config.schema import Config
from hybrid_patch.config.target_options import LabelTarget
from hybrid_patch.data.source import Source
from hybrid_patch.evaluate.head_scores import MAIN_SCORES
from hybrid_patch.runs.checkpoints import Best, Checkpoint

log = logging.getLogger(__name__)


class BestWeights:
    """The best score of a training so far, and of which step its weights are; these have a checkpoint that is kept.

    All of it is in the checkpoints, so that a training that goes on chooses and stops as if it had not been stopped.
    Without `target=labels`, its `validate_every` or validation samples, nothing is scored.
    """

    def __init__(self, config: Config, source: Source, checkpoint: Checkpoint | None) -> None:
        self.steps, self.every, self.patience = config.trainer.steps, 0, None
        self.max_tiles: int | None = None
        if isinstance(config.target, LabelTarget):
            self.every, self.patience = config.target.validate_every, config.target.patience
            self.max_tiles = config.target.validation_tiles
            if self.every and not len(source.indices("val")):
                log.warning("there are no validation samples: the last weights are those that are kept")
                self.every = 0
        self.best: Best | None = None if checkpoint is None else checkpoint.state.get("best")
        self._scored = 0 if self.best is None else self.best["scored"]

    @property
    def step(self) -> int | None:
        """The step of the best weights; None if nothing has been scored."""
        return None if self.best is None else self.best["step"]

    def due(self, step: int) -> bool:
        """Whether the weights after a step are to be scored, and have not been."""
        return self._scored < step and bool(self.every) and (step % self.every == 0 or step == self.steps)

    def add(self, step: int, scores: Mapping[str, float]) -> bool:
        """Note the scores of the weights after a step; whether they are the best. NaN is never."""
        score = next(scores[name] for name in MAIN_SCORES if name in scores)
        better = not math.isnan(score) and (self.best is None or score > self.best["score"])
        if better:
            self.best = {"score": score, "step": step, "scored": step}
        elif self.best is not None:
            self.best = {**self.best, "scored": step}
        self._scored = step
        return better

    @property
    def stalled(self) -> bool:
        """Whether there have been `patience` scores in a row without a better one."""
        if self.patience is None or self.best is None:
            return False
        return self.best["scored"] - self.best["step"] >= self.patience * self.every

    def state(self) -> dict[str, Any]:
        """Its part of a checkpoint."""
        return {} if self.best is None else {"best": self.best}

"""Which patch sizes, and crops of which size, a step is trained at."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hybrid_patch.config.schema import Config, Curriculum

STAGE = 3
"""Of the random numbers by which a mixed curriculum draws; apart from those of `data.loading`."""


class PatchSizes(NamedTuple):
    """Sides, in pixels, of the patches that the transformer sees and of those that tokens stand for at the end."""

    processing: int
    output: int

    @property
    def factor(self) -> int:
        """Fine tokens per coarse token along each side."""
        return self.processing // self.output


def all_sizes(curriculum: Curriculum) -> tuple[PatchSizes, ...]:
    """The patch sizes of all stages, in order."""
    return tuple(PatchSizes(s.processing_patch_size, s.output_patch_size) for s in curriculum.stages)


def sizes_at(config: Config, step: int) -> PatchSizes:
    """The patch sizes of step `step`, counted from 0: the same in all processes, and whatever step a run goes on from.

    In turn, stages take their shares of the steps; mixed, each step draws its stage, by its share, from (seed, step).
    """
    curriculum = config.curriculum
    ends = np.cumsum([stage.share for stage in curriculum.stages])
    if curriculum.order == "mixed":
        place = np.random.default_rng([config.seed, STAGE, step]).random() * ends[-1]
        stage = int(np.searchsorted(ends, place, side="right"))
    else:
        stage = int(np.searchsorted(np.rint(ends * config.trainer.steps), step, side="right"))
    return all_sizes(curriculum)[min(stage, len(ends) - 1)]


def sizes_after(config: Config, steps: int) -> PatchSizes:
    """The patch sizes at which a model is used after so many steps: the last step's, or the last stage's if mixed."""
    if config.curriculum.order == "mixed":
        return all_sizes(config.curriculum)[-1]
    return sizes_at(config, max(steps - 1, 0))


def tile_for(config: Config, sizes: PatchSizes) -> int:
    """The side of the crops, in pixels, that are trained on at some patch sizes.

    Under a budget of `pixels` all stages have the same. Under one of `tokens` a stage of smaller patches has smaller
    crops, of as many coarse tokens as the stage of the largest patches has.
    """
    if config.curriculum.budget == "pixels":
        return config.data.tile
    largest = max(other.processing for other in all_sizes(config.curriculum))
    return config.data.tile // largest * sizes.processing


def prime_factors(number: int) -> Iterator[int]:
    """The prime factors of a whole number, ascending: 8 → 2, 2, 2."""
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            yield divisor
            number //= divisor
        divisor += 1

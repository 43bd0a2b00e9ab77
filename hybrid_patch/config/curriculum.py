"""The patch sizes, and the size of the crops, that a step is trained at."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hybrid_patch.config.schema import Config, Curriculum

STAGE = 3
"""Random stream of a mixed curriculum, apart from those of `data.loading`."""


class PatchSizes(NamedTuple):
    """Sides, in pixels, of the patches that the transformer sees and of those that output tokens stand for."""

    processing: int
    output: int

    @property
    def factor(self) -> int:
        """Fine tokens per coarse token along each side."""
        return self.processing // self.output


def all_sizes(curriculum: Curriculum) -> tuple[PatchSizes, ...]:
    return tuple(PatchSizes(s.processing_patch_size, s.output_patch_size) for s in curriculum.stages)


def sizes_at(config: Config, step: int) -> PatchSizes:
    """The patch sizes of a step, counted from 0, from (seed, step) alone: equal in all processes and after a resume."""
    curriculum = config.curriculum
    ends = np.cumsum([stage.share for stage in curriculum.stages])
    if curriculum.order == "mixed":
        place = np.random.default_rng([config.seed, STAGE, step]).random() * ends[-1]
        stage = int(np.searchsorted(ends, place, side="right"))
    else:
        stage = int(np.searchsorted(np.rint(ends * config.trainer.steps), step, side="right"))
    return all_sizes(curriculum)[min(stage, len(ends) - 1)]


def sizes_after(config: Config, steps: int) -> PatchSizes:
    """The patch sizes at which a model is used after `steps` steps: the last step's, or the last stage's if mixed."""
    if config.curriculum.order == "mixed":
        return all_sizes(config.curriculum)[-1]
    return sizes_at(config, max(steps - 1, 0))


def samples_before(config: Config, step: int) -> int:
    """The position in the endless sequence of samples at which a step, counted from 0, begins."""
    begun = config.continue_from
    first, samples = (0, 0) if begun is None else (begun.step, begun.samples)
    return samples + (step - first) * config.trainer.batch_size


def tile_for(config: Config, sizes: PatchSizes) -> int:
    """The side of the crops, in pixels, at some patch sizes; see `Curriculum.budget`."""
    if config.curriculum.budget == "pixels":
        return config.data.tile
    largest = max(other.processing for other in all_sizes(config.curriculum))
    return config.data.tile // largest * sizes.processing


def prime_factors(number: int) -> Iterator[int]:
    """The prime factors of a whole number, ascending: 8 → 2, 2, 2."""
    divisor = 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            yield divisor
            number //= divisor
        divisor += 1
    if number > 1:
        yield number

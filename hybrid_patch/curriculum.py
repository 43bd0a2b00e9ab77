"""Which patch sizes a step is trained at."""

from collections.abc import Iterator
from typing import NamedTuple

from hybrid_patch.config.schema import Curriculum


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


def sizes_at(curriculum: Curriculum, step: int, steps: int) -> PatchSizes:
    """The patch sizes of step `step` (from 0) of `steps`: stages take their shares of the steps in turn."""
    end = 0.0
    sizes = all_sizes(curriculum)
    for stage, patch_sizes in zip(curriculum.stages, sizes, strict=True):
        end += stage.share * steps
        if step < round(end):
            return patch_sizes
    return sizes[-1]


def prime_factors(number: int) -> Iterator[int]:
    """The prime factors of a whole number, ascending: 8 → 2, 2, 2."""
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            yield divisor
            number //= divisor
        divisor += 1

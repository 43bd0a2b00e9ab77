"""Which patch sizes a step is trained at."""

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

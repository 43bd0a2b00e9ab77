"""Labels of pixels that a training learns from: all of them, or a share that is drawn by the seed."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.config.target_options import LabelTarget
from hybrid_patch.data.crops import Crop
from hybrid_patch.data.source import UNLABELLED, Array, BrokenSampleError, Source, Window
from hybrid_patch.errors import InputError

TILES, PIXELS = 3, 4
"""Streams of random numbers, beside those of the loader."""


@dataclasses.dataclass(frozen=True)
class TrainingLabels:
    """The labels that `target=labels` learns from; with one seed, a smaller share is part of a larger one."""

    source: Source
    target: LabelTarget
    seed: int

    def indices(self) -> Int[Array, " n"]:
        """The training samples: all, or a share of them, and at least one."""
        indices = self.source.indices("train")
        if self.target.fraction_of == "pixels":
            return indices
        chosen = math.ceil(self.target.fraction * len(indices))
        return np.sort(np.random.default_rng([self.seed, TILES]).permutation(indices)[:chosen])

    def of(self, crop: Crop, index: int, window: Window) -> Int[Array, "h w"] | Float[Array, "h w"]:
        """The labels of a crop that was read of a sample's window, where its pixels have data.

        Raises BrokenSampleError for a class that there is not, and InputError for a source without labels of pixels.
        """
        if crop.numbers is not None:
            labels, none = crop.numbers.astype(np.float32), math.nan
        elif crop.labels is not None:
            labels, none = crop.labels.astype(np.int64), UNLABELLED
            largest, classes = int(labels.max(initial=UNLABELLED)), len(self.source.class_names())
            if largest >= classes:
                name = self.source.name(index)
                raise BrokenSampleError(f"{name}: holds the class {largest}; there are {classes}, from 0 on")
        else:
            kind = "has labels of whole samples, but none of pixels" if crop.label is not None else "has no labels"
            raise InputError(f"target=labels: {self.source.name(index)} {kind}; name them, as by data.labels=FOLDER")
        inputs = [name for name, modality in self.source.modalities.items() if not modality.decode_only]
        rows, columns = labels.shape
        learned = crop.any_valid(inputs)[:rows, :columns]
        if self.target.fraction_of == "pixels" and self.target.fraction < 1:
            learned = learned & self._drawn(index)[window.slices]
        whole = np.full((window.height, window.width), none, labels.dtype)
        whole[:rows, :columns] = np.where(learned, labels, none)
        return whole

    def _drawn(self, index: int) -> Array:
        """Which pixels of a sample are drawn."""
        height, width, _ = self.source.shape(index)
        random = np.random.default_rng([self.seed, PIXELS, index]).random((height, width), np.float32)
        return random < self.target.fraction


def has_label(labels: Int[Array, "h w"] | Float[Array, "h w"]) -> Array:
    """Where there is one."""
    return np.isfinite(labels) if labels.dtype.kind == "f" else labels != UNLABELLED

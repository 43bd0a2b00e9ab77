"""A data source in memory, whose values tell where they come from."""

from collections.abc import Mapping

import numpy as np
from building import MODALITIES

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.source import BrokenSampleError, Sample, Window

Array = np.ndarray


class Memory:
    """Ten samples of 20 × 24 pixels and 3 timesteps whose optical values tell where they come from."""

    modalities: Mapping[str, Modality] = MODALITIES

    def class_names(self) -> tuple[str, ...]:
        return ("a", "b", "c", "d")

    def __init__(
        self,
        broken: tuple[int, ...] = (),
        empty: tuple[int, ...] = (),
        size: tuple[int, int] = (20, 24),
        only: tuple[int, int, int] | None = None,
    ):
        """`broken` samples cannot be read, `empty` ones have no valid pixel; `only` one row, column, time is valid."""
        self.broken, self.empty, self.size, self.only = broken, empty, size, only

    def indices(self, split: str) -> Array:
        return np.arange(8) if split == "train" else np.arange(8, 10)

    def group(self, index: int) -> int:
        return index

    def shape(self, index: int) -> tuple[int, int, int]:
        return (*self.size, 3)

    def name(self, index: int) -> str:
        return f"sample {index}"

    def read(self, index: int, window: Window, timesteps: Array, labels: bool = True) -> Sample:
        if index in self.broken:
            raise BrokenSampleError(f"sample {index}: truncated")
        rows = np.arange(window.top, window.top + window.height)[:, None, None]
        columns = np.arange(window.left, window.left + window.width)[None, :, None]
        optical = np.stack(np.broadcast_arrays(index, rows, columns, timesteps[None, None]), -1).astype(np.float32)
        classes = np.zeros(optical.shape[:2], np.int16)
        cover = np.full((*classes.shape, 1, 1), 20, np.float32)
        valid_mask = np.full(optical.shape[:3], index not in self.empty)
        if self.only is not None:
            valid_mask = (optical[..., 1:] == self.only).all(-1)
        images = {"optical": optical, "cover": cover}  # and no height
        valid = {"optical": valid_mask, "cover": np.ones((*classes.shape, 1), bool)}
        return Sample(images, valid, np.stack([timesteps + 1] * 3, -1), None, classes)

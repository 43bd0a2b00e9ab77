"""Figures of embeddings without labels: whether patches or windows show, and how many directions they use."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import entropy

from hybrid_patch.data.source import Window
from hybrid_patch.embed.windows import Tiling
from hybrid_patch.evaluate.label_maps import blocks

Array = np.ndarray

NEIGHBOURS = ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1]))
"""Slices of an image, by axis, whose pixels are neighbours of each other."""
WINDOWS = 5
"""Along each side of a map, at least."""
COMPONENTS = 3
"""Principal components that are looked at: those of a map's colours."""


class Structure(NamedTuple):
    """Figures of embeddings, without labels.

    Attributes:
        lattice_ratio: mean distance of neighbouring pixels across patch borders, relative to inside patches; 1: no grid
            shows. None where a patch is one pixel, or nothing changes inside patches (infinite, which JSON has not).
        window_ratio: share of maps' variance between squares aligned with their windows, relative to squares half a
            stride off; mean over the first three principal components. 1: no window shows. None without data.
        effective_rank: over how many directions the embeddings spread: `exp(H(p))`, p the normalised singular values of
            the centred embeddings (Roy & Vetterli 2007, "The effective rank").
        neighbour_similarity: mean cosine of neighbouring pixels' centred embeddings.
    """

    lattice_ratio: float | None
    window_ratio: float | None
    effective_rank: float
    neighbour_similarity: float


ROUNDING = 1e-4
"""Of distances inside patches relative to those across borders: patches of less are of one value."""


class StructureAccumulator:
    """Accumulates tiles, and maps of them for `windows`, then computes their `Structure`."""

    def __init__(self, patch_size: int, tiling: Tiling) -> None:
        self.patch_size, self.windows = patch_size, WindowAccumulator(tiling)
        self._sums = np.zeros((3, 2))
        self._border, self._inside, self._cosine = self._sums  # sums and counts
        self._moments: tuple[float, Float[Array, " d"], Float[Array, "d d"]] | None = None

    def add(self, embedding: Float[Array, "h w d"], valid_mask: Bool[Array, "h w"]) -> None:
        values = embedding[valid_mask].astype(np.float64)
        if not len(values):
            return
        count, total, squares = self._moments or (0.0, np.zeros(values.shape[1]), np.zeros((values.shape[1],) * 2))
        self._moments = count + len(values), total + values.sum(0), squares + values.T @ values
        centred = embedding - values.mean(0).astype(embedding.dtype)
        norm = np.linalg.norm(centred, axis=-1)
        for axis, (after, before) in enumerate(NEIGHBOURS):
            both_valid = valid_mask[after] & valid_mask[before]
            distance = np.linalg.norm(centred[after] - centred[before], axis=-1)
            at_border = np.expand_dims(np.arange(1, centred.shape[axis]) % self.patch_size == 0, 1 - axis)
            for sums, mask in ((self._border, both_valid & at_border), (self._inside, both_valid & ~at_border)):
                sums += (distance[mask].sum(), mask.sum())
            cosine = (centred[after] * centred[before]).sum(-1) / np.maximum(norm[after] * norm[before], 1e-12)
            self._cosine += (cosine[both_valid].sum(), both_valid.sum())

    def merge(self, other: "StructureAccumulator") -> None:
        """Add what another has accumulated of other tiles."""
        self._sums += other._sums
        if moments := [each._moments for each in (self, other) if each._moments is not None]:
            counts, totals, squares = zip(*moments, strict=True)
            self._moments = sum(counts), np.sum(totals, 0), np.sum(squares, 0)
        self.windows.merge(other.windows)

    def result(self) -> Structure | None:
        """The figures; None without two neighbouring pixels."""
        if self._moments is None or not self._cosine[1]:
            return None
        count, total, squares = self._moments
        covariance = squares / count - np.outer(total, total) / count**2
        singular = np.sqrt(np.linalg.eigvalsh(covariance).clip(min=0))
        border, inside = (total / count if count else 0.0 for total, count in (self._border, self._inside))
        return Structure(
            float(border / inside) if inside > ROUNDING * border and self._border[1] else None,
            self.windows.ratio(),
            float(np.exp(entropy(singular))) if singular.any() else 1.0,
            float(self._cosine[0] / self._cosine[1]),
        )


class WindowAccumulator:
    """Accumulates maps that are blended of windows, then tells whether windows show in them.

    Squares as large as the windows' stride are either in the middle of one window each, or half a stride off, with a
    quarter of each of four windows. Two maps are compared in the same squares of the ground, so that what varies on it
    varies alike in both: one map's windows are aligned with the squares, the other's begin half a stride later.
    """

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling
        self._aligned, self._half_off = np.zeros((2, 1))  # sums of shares of variance, by component

    @property
    def least_side(self) -> int:
        """The pixels along each side that an image must have."""
        return self.tiling.side + (WINDOWS - 1) * self.tiling.stride

    def parts(self, height: int, width: int) -> tuple[Window, Window]:
        """The parts of an image to make two maps of, with all windows a stride apart."""
        side, stride = self.tiling
        rows, columns = (length - (length - side) % stride for length in (height, width))
        return Window(0, 0, rows, columns), Window(stride // 2, stride // 2, rows - stride, columns - stride)

    def add(
        self, whole: Float[Array, "h w d"], shifted: Float[Array, "h2 w2 d"], valid_mask: Bool[Array, "h w"]
    ) -> None:
        """Add the maps of the two parts of an image; the mask is the first one's. Without data it is left out."""
        side, stride = self.tiling
        first = (side + stride) // 2  # the second window's square: those at the edge overlap on one side only
        squares, of_shifted = (
            tuple(slice(begin, begin + length - side - stride) for length in valid_mask.shape)
            for begin in (first, first - stride // 2)
        )
        variances, components = (x[..., -COMPONENTS:] for x in np.linalg.eigh(covariance_matrix(whole[valid_mask])))
        aligned, half_off = (
            between_squares(values @ components.astype(values.dtype), valid_mask[squares], stride)
            for values in (whole[squares], shifted[of_shifted])
        )
        if (variances > 0).all() and valid_mask[squares].any():
            variances = variances * valid_mask[squares].sum()
            self._aligned, self._half_off = self._aligned + aligned / variances, self._half_off + half_off / variances

    def merge(self, other: "WindowAccumulator") -> None:
        """Add what another has accumulated of other maps."""
        self._aligned, self._half_off = self._aligned + other._aligned, self._half_off + other._half_off

    def ratio(self) -> float | None:
        """From the sums over images, where a square that hardly varies has no weight; None without any."""
        return float((self._aligned / self._half_off).mean()) if (self._half_off > 0).all() else None


def covariance_matrix(values: Float[Array, "n d"]) -> Float[Array, "d d"]:
    """Of all numbers with each other; zeros without any values."""
    count = max(len(values), 1)
    centred = torch.from_numpy(values - (values.sum(0, dtype=np.float64) / count).astype(values.dtype))
    return (centred.T @ centred).double().numpy() / count


def between_squares(values: Float[Array, "h w k"], valid_mask: Bool[Array, "h w"], side: int) -> Float[Array, " k"]:
    """The variance of squares' means, times the number of valid pixels, which they are weighted by."""
    count = blocks(valid_mask, side).sum(2, dtype=np.float64)[..., None]
    means = blocks(np.where(valid_mask[..., None], values, 0), side).sum(2, dtype=np.float64) / np.maximum(count, 1)
    return (count * (means - (count * means).sum((0, 1)) / max(count.sum(), 1)) ** 2).sum((0, 1))

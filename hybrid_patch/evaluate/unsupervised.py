"""Figures of embeddings that need no labels: whether patches show in them, and how many directions they use."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import entropy

Array = np.ndarray

NEIGHBOURS = ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1]))
"""Slices of an image, by axis, whose pixels are neighbours of each other."""


class Structure(NamedTuple):
    """Figures of embeddings, without labels.

    Attributes:
        lattice_ratio: mean distance of neighbouring pixels across patch borders, relative to inside patches; 1: no grid
            shows. None where a patch is one pixel, or nothing changes inside patches (infinite, which JSON has not).
        effective_rank: over how many directions the embeddings spread: `exp(H(p))`, p the normalised singular values of
            the centred embeddings (Roy & Vetterli 2007, "The effective rank").
        neighbour_similarity: mean cosine of neighbouring pixels' centred embeddings.
    """

    lattice_ratio: float | None
    effective_rank: float
    neighbour_similarity: float


class StructureAccumulator:
    """Accumulates tiles, then computes their `Structure`."""

    def __init__(self, patch_size: int) -> None:
        self.patch_size = patch_size
        self._border, self._inside, self._cosine = np.zeros((3, 2))  # sums and counts
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

    def result(self) -> Structure | None:
        """The figures; None without two neighbouring pixels."""
        if self._moments is None or not self._cosine[1]:
            return None
        count, total, squares = self._moments
        covariance = squares / count - np.outer(total, total) / count**2
        singular = np.sqrt(np.linalg.eigvalsh(covariance).clip(min=0))
        border, inside = (total / count if count else 0.0 for total, count in (self._border, self._inside))
        return Structure(
            float(border / inside) if inside > 0 and self._border[1] else None,
            float(np.exp(entropy(singular))) if singular.any() else 1.0,
            float(self._cosine[0] / self._cosine[1]),
        )

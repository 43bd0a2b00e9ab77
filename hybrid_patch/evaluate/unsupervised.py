"""What can be said of embeddings without labels: whether patches show in them, and how much room they use."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Array = np.ndarray


class Structure(NamedTuple):
    """Figures of embeddings, without labels.

    Attributes:
        lattice_ratio: how much stronger the embedding changes across patch borders than inside patches: the ratio of
            the mean distances of neighbouring pixels. 1: no grid shows. (Pure ps=8 changes at borders only: infinite,
            which JSON has not, so None; None too where a patch is one pixel.)
        effective_rank: `exp(H(p))`, p the shares of the singular values of the centred embeddings (Roy & Vetterli 2007,
            "The effective rank"): over how many directions they are spread.
        neighbour_similarity: mean cosine of neighbouring pixels' centred embeddings.
    """

    lattice_ratio: float | None
    effective_rank: float
    neighbour_similarity: float


class StructureOf:
    """Gathers tiles, then gives their `Structure`."""

    def __init__(self, patch_size: int) -> None:
        self.patch_size = patch_size
        self._border = np.zeros(2)
        self._inside = np.zeros(2)
        self._cosine = np.zeros(2)
        self._moments: tuple[float, Float[Array, " d"], Float[Array, "d d"]] | None = None

    def add(self, embedding: Float[Array, "h w d"], seen: Bool[Array, "h w"]) -> None:
        """One tile, `[H, W, D]`, and where anything was measured in it."""
        values = embedding[seen].astype(np.float64)
        if not len(values):
            return
        count, total, squares = self._moments or (0.0, np.zeros(values.shape[1]), np.zeros((values.shape[1],) * 2))
        self._moments = count + len(values), total + values.sum(0), squares + values.T @ values
        centred = embedding - values.mean(0).astype(embedding.dtype)
        norm = np.linalg.norm(centred, axis=-1)
        for axis in (0, 1):
            a = centred.take(range(1, centred.shape[axis]), axis)
            b = centred.take(range(centred.shape[axis] - 1), axis)
            both = seen.take(range(1, seen.shape[axis]), axis) & seen.take(range(seen.shape[axis] - 1), axis)
            length = norm.take(range(1, norm.shape[axis]), axis) * norm.take(range(norm.shape[axis] - 1), axis)
            distance = np.linalg.norm(a - b, axis=-1)
            place = np.arange(1, centred.shape[axis]) % self.patch_size == 0
            at_border = np.broadcast_to(place[:, None] if axis == 0 else place, both.shape)
            for sums, take in ((self._border, both & at_border), (self._inside, both & ~at_border)):
                sums += (distance[take].sum(), take.sum())
            cosine = (a * b).sum(-1) / np.maximum(length, 1e-12)
            self._cosine += (cosine[both].sum(), both.sum())

    def result(self) -> Structure | None:
        """None without any pixel."""
        if self._moments is None or not self._cosine[1]:
            return None
        count, total, squares = self._moments
        covariance = squares / count - np.outer(total, total) / count**2
        singular = np.sqrt(np.linalg.eigvalsh(covariance).clip(min=0))
        share = singular[singular > 0] / singular.sum() if singular.any() else np.ones(1)
        border, inside = (sums[0] / sums[1] if sums[1] else 0.0 for sums in (self._border, self._inside))
        return Structure(
            float(border / inside) if inside > 0 and self._border[1] else None,
            float(np.exp(-(share * np.log(share)).sum())),
            float(self._cosine[0] / self._cosine[1]),
        )

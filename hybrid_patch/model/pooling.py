"""The tokens of each pixel pooled over modalities, timesteps and band sets, as images."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.tokens import FineGrid


class Projection(NamedTuple):
    """A linear map `x W + b` of embeddings, applied to coarse tokens: only k numbers per pixel are computed, not D."""

    weight: Float[Tensor, "d k"]
    bias: Float[Tensor, " k"]


def mean(grids: Sequence[FineGrid], projection: Projection | None) -> Float[Tensor, "n fh fw d"]:
    """The mean of all modalities' tokens at each position, projected if asked for; zeros where all are missing."""
    total = None
    for grid in grids:
        image = (grid if projection is None else grid.transform(*projection)).summed_images()
        # In place: an image of D numbers per pixel is larger than the caches, and a copy takes as long as a layer.
        total = image if total is None else total.add_(image)
    assert total is not None
    count = torch.stack([grid.mask.sum((3, 4)) for grid in grids]).sum(0)
    return total.div_(repeat_cells(count, grids[0].factor)[..., None].clamp(min=1))


def concatenated(grids: Sequence[FineGrid]) -> Float[Tensor, "n fh fw mtsd"]:
    """Dense tokens as images, concatenated over modalities, timesteps and band sets, zeros where missing."""
    return torch.cat([grid.stacked_images() for grid in grids], dim=-1)

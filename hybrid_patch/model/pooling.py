"""The tokens of each pixel pooled over modalities, timesteps and band sets, as images."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.tokens import FineTokens, images


class Projection(NamedTuple):
    """A linear map `x W + b` of embeddings, applied to coarse tokens: only k numbers per pixel are computed, not D."""

    weight: Float[Tensor, "d k"]
    bias: Float[Tensor, " k"]


def mean(tokens: Sequence[FineTokens], projection: Projection | None) -> Float[Tensor, "n fh fw d"]:
    """The mean of all modalities' tokens at each position, projected if asked for; zeros where all are missing."""
    total = None
    for fine in tokens:
        projected = fine if projection is None else fine.transform(projection.weight, projection.bias)
        image = projected.summed_images(fine.grid.mask.flatten(1)[..., None].expand(-1, -1, fine.factor**2))
        # In place: an image of D numbers per pixel is larger than the caches, and a copy takes as long as a layer.
        total = image if total is None else total.add_(image)
    assert total is not None
    count = torch.stack([fine.grid.mask.sum((3, 4)) for fine in tokens]).sum(0)
    return total.div_(repeat_cells(count, tokens[0].factor)[..., None].clamp(min=1))


def concatenated(tokens: Sequence[FineTokens]) -> Float[Tensor, "n fh fw mtsd"]:
    """Dense tokens as images, concatenated over modalities, timesteps and band sets, zeros where missing."""
    each = []
    for fine in tokens:
        h, w = fine.grid.mask.shape[1:3]
        dense = torch.where(fine.grid.mask.flatten(1)[..., None, None], fine.dense(), 0)
        cells = dense.unflatten(1, (h * w, -1)).transpose(2, 3).flatten(3)
        each.append(images(cells, (h, w), fine.factor))
    return torch.cat(each, dim=-1)

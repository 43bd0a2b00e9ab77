"""Per-pixel embeddings: batches in which nothing is masked, and the tokens of each pixel pooled."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.batch import Batch, QuerySampling
from hybrid_patch.data.crops import Crop, MaskedCrop, collate
from hybrid_patch.data.masking import Mask, coarse_presence
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.tokens import FineGrid

Pooling = Literal["mean", "concat"]
"""Over modalities, timesteps and band sets: their mean, or their concatenation."""


class Projection(NamedTuple):
    """A linear map `x W + b` of embeddings, applied to coarse tokens: only k numbers per pixel are computed, not D."""

    weight: Float[Tensor, "d k"]
    bias: Float[Tensor, " k"]


def unmasked_batch(
    crops: Sequence[Crop],
    processing_patch_size: int,
    modalities: Mapping[str, Modality],
    absent: Mapping[str, Collection[int]],
) -> Batch:
    """Crops as a batch of one view in which every token with data is encoded, but those of `absent` band sets."""
    masked = []
    for crop in crops:
        masks = {}
        for name, valid in crop.valid.items():
            valid_mask = coarse_presence(valid[None], processing_patch_size, len(modalities[name].band_sets))
            masks[name] = np.where(valid_mask, Mask.ENCODE, Mask.MISSING).astype(np.int8)
            masks[name][..., list(absent.get(name, ()))] = Mask.MISSING
        masked.append(MaskedCrop(crop, masks, {}, {}, {}))
    inputs = [name for name, modality in modalities.items() if not modality.decode_only]
    return collate(masked, inputs, QuerySampling(torch.zeros(0, dtype=torch.long), torch.zeros(0)))


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

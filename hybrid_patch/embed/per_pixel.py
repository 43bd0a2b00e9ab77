"""Per-pixel embeddings of crops: nothing is masked, and the tokens of each pixel are pooled."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.batch import Batch, QuerySampling
from hybrid_patch.data.crops import Crop, MaskedCrop, collate
from hybrid_patch.data.masking import Mask, coarse_presence
from hybrid_patch.data.patchify import patchify
from hybrid_patch.model.hybrid import HybridModel
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.tokens import FineTokens, Positions, images

Pooling = Literal["mean", "concat"]
"""Over modalities, timesteps and band sets: their mean, or their concatenation."""


class Projection(NamedTuple):
    """A linear map of embeddings: `x W + b`, W `[D, k]`. It is applied to coarse tokens, so that only k numbers per
    pixel are computed, not D."""

    weight: Float[Tensor, "d k"]
    bias: Float[Tensor, " k"]


@torch.no_grad()
def embed(
    model: HybridModel,
    crops: Sequence[Crop],
    sizes: PatchSizes,
    modalities: Mapping[str, Modality],
    device: torch.device,
    pooling: Pooling = "mean",
    projection: Projection | None = None,
    absent: Mapping[str, Collection[int]] | None = None,
    repeat: bool = True,
) -> Float[Tensor, "n height width d"]:
    """Embed every pixel: `[N, H, W, D]`, its fine tokens pooled.

    At an output patch size above 1, the pixels of a patch share its token. Pixels without tokens are zeros, and so are
    missing tokens in a concatenation (`[N, H, W, modalities T S D]`).

    Args:
        projection: of the mean; with `concat` it raises ValueError.
        absent: per modality, the numbers of its missing band sets.
        repeat: False for one row and column per output patch instead of per pixel.
    """
    if projection is not None and pooling != "mean":
        raise ValueError(f"pooling={pooling}: only a mean can be projected")
    batch = _unmasked_batch(crops, sizes, modalities, absent or {}).map(lambda x: x.to(device))
    patches = {name: patchify(pixels, sizes.processing) for name, pixels in batch.pixels.items()}
    _, latents = model.encode(patches, batch)
    each = sizes.output if repeat else 1
    totals, counts, concatenated = [], [], []
    for name, grid in latents.items():
        positions = Positions.everywhere(grid.mask, sizes.factor)
        fine = model.encoder_upsampler(grid, sizes.factor, positions, batch.guide(name))
        if pooling == "concat":
            concatenated.append(_concatenated(fine))
            continue
        if projection is not None:
            fine = fine.transform(projection.weight, projection.bias)
        encoded_mask = grid.mask.flatten(1)[..., None].expand(-1, -1, sizes.factor**2)
        totals.append(fine.summed_images(encoded_mask))
        counts.append(grid.mask.sum((3, 4)))
    if pooling == "concat":
        return repeat_cells(torch.cat(concatenated, dim=-1), each)
    # In place: an image of D numbers per pixel is larger than the caches, and each copy of it takes as long as a layer.
    total, count = totals[0], repeat_cells(sum(counts[1:], counts[0]), sizes.factor)[..., None]
    for other in totals[1:]:
        total += other
    return repeat_cells(total.div_(count.clamp(min=1)), each)


def _unmasked_batch(
    crops: Sequence[Crop],
    sizes: PatchSizes,
    modalities: Mapping[str, Modality],
    absent: Mapping[str, Collection[int]],
) -> Batch:
    """Crops as a batch of one view in which every token with data is encoded."""
    masked = []
    for crop in crops:
        masks = {}
        for name, valid in crop.valid.items():
            valid_mask = coarse_presence(valid[None], sizes.processing, len(modalities[name].band_sets))
            masks[name] = np.where(valid_mask, Mask.ENCODE, Mask.MISSING).astype(np.int8)
            masks[name][..., list(absent.get(name, ()))] = Mask.MISSING
        masked.append(MaskedCrop(crop, masks, {}))
    inputs = [name for name, modality in modalities.items() if not modality.decode_only]
    return collate(masked, inputs, QuerySampling(torch.zeros(0, dtype=torch.long), torch.zeros(0)))


def _concatenated(fine: FineTokens) -> Float[Tensor, "n fh fw tsd"]:
    """Dense tokens as images, concatenated over timesteps and band sets, zeros where missing."""
    h, w = fine.grid.mask.shape[1:3]
    dense = torch.where(fine.grid.mask.flatten(1)[..., None, None], fine.dense(), 0)
    cells = dense.unflatten(1, (h * w, -1)).transpose(2, 3).flatten(3)
    return images(cells, (h, w), fine.factor)

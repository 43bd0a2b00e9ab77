"""Per-pixel embeddings of crops: the frozen encoder sees everything, and its tokens are put together per pixel."""

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
"""Over modalities, timesteps and band sets: their mean, or all of them one behind the other."""


class Projection(NamedTuple):
    """A linear map of embeddings: `x W + b`, W `[D, k]`. Worked out on coarse tokens, so that k numbers per pixel are
    made and not D."""

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
    """`[N, H, W, D]`: every pixel's fine tokens, put together. Nothing is hidden from the encoder.

    At an output patch size above 1 the pixels of a patch share its token. A pixel without any token is zeros, and so is
    a missing token where tokens are concatenated (`[N, H, W, modalities T S D]`).

    Args:
        projection: of the mean; not for `concat` (ValueError).
        absent: per modality, the numbers of band sets that were not measured.
        repeat: False for one row and column per output patch instead of per pixel.
    """
    if projection is not None and pooling != "mean":
        raise ValueError(f"pooling={pooling}: only a mean can be projected")
    batch = _everything_seen(crops, sizes, modalities, absent or {}).map(lambda x: x.to(device))
    patches = {name: patchify(pixels, sizes.processing) for name, pixels in batch.pixels.items()}
    _, latents = model.encode(patches, batch)
    each = sizes.output if repeat else 1
    totals, counts, concatenated = [], [], []
    for name, grid in latents.items():
        positions = Positions.everywhere(grid.mask, sizes.factor)
        fine = model.encoder_upsampler(grid, sizes.factor, positions, batch.guide(name))
        if pooling == "concat":
            concatenated.append(_side_by_side(fine))
            continue
        if projection is not None:
            fine = fine.transform(projection.weight, projection.bias)
        there = grid.mask.flatten(1)[..., None].expand(-1, -1, sizes.factor**2)
        totals.append(fine.summed_images(there))
        counts.append(grid.mask.sum((3, 4)))
    if pooling == "concat":
        return repeat_cells(torch.cat(concatenated, dim=-1), each)
    # In place: an image of D numbers per pixel is larger than the caches, and each copy of it takes as long as a layer.
    total, count = totals[0], repeat_cells(sum(counts[1:], counts[0]), sizes.factor)[..., None]
    for other in totals[1:]:
        total += other
    return repeat_cells(total.div_(count.clamp(min=1)), each)


def _everything_seen(
    crops: Sequence[Crop],
    sizes: PatchSizes,
    modalities: Mapping[str, Modality],
    absent: Mapping[str, Collection[int]],
) -> Batch:
    """Crops as a batch of one view, whose measured tokens are all encoded."""
    masked = []
    for crop in crops:
        masks = {}
        for name, valid in crop.valid.items():
            present = coarse_presence(valid[None], sizes.processing, len(modalities[name].band_sets))
            masks[name] = np.where(present, Mask.ENCODE, Mask.MISSING).astype(np.int8)
            masks[name][..., list(absent.get(name, ()))] = Mask.MISSING
        masked.append(MaskedCrop(crop, masks, {}))
    inputs = [name for name, modality in modalities.items() if not modality.decode_only]
    return collate(masked, inputs, QuerySampling(torch.zeros(0, dtype=torch.long), torch.zeros(0)))


def _side_by_side(fine: FineTokens) -> Float[Tensor, "n fh fw tsd"]:
    """Dense tokens as images, those of all timesteps and band sets one behind the other, zeros where there is none."""
    h, w = fine.grid.mask.shape[1:3]
    dense = torch.where(fine.grid.mask.flatten(1)[..., None, None], fine.dense(), 0)
    cells = dense.unflatten(1, (h * w, -1)).transpose(2, 3).flatten(3)
    return images(cells, (h, w), fine.factor)

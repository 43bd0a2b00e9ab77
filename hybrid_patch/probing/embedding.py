"""Per-pixel embeddings of tiles: the frozen encoder sees everything, and its tokens are averaged per pixel."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.modality import Modality
from hybrid_patch.masking import Mask
from hybrid_patch.nn.model import HybridModel
from hybrid_patch.tokens import repeat_cells


@torch.no_grad()
def embed(
    model: HybridModel, batch: Batch, sizes: PatchSizes, modalities: Mapping[str, Modality]
) -> Float[Tensor, "b height width d"]:
    """`[B, H, W, D]`: for every pixel the mean of its fine tokens over modalities, timesteps and band sets.

    At an output patch size above 1 the pixels of a patch share its token. A pixel without any token is zeros. The
    batch needs no views: nothing is hidden.
    """
    masks = {}
    for name, valid in batch.valid.items():
        patch, band_sets = sizes.processing, len(modalities[name].band_sets)
        present = valid.unflatten(1, (-1, patch)).unflatten(3, (-1, patch)).any(4).any(2)
        mask = torch.where(present, Mask.ENCODE, Mask.MISSING).to(torch.int8)
        masks[name] = mask[..., None].expand(*mask.shape, band_sets)
    _, latents = model.encode(batch.pixels, masks, batch.timestamps, sizes)
    total, count = torch.zeros(()), torch.zeros(())
    for fine in latents.values():
        there = fine.fine_mask[..., None]
        total = total + torch.where(there, fine.dense(), 0).sum((3, 4))
        count = count + there.sum((3, 4))
    return repeat_cells(total / count.clamp(min=1), sizes.output)

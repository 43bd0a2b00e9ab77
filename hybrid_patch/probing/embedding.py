"""Per-pixel embeddings of tiles: the frozen encoder sees everything, and its tokens are averaged per pixel."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.curriculum import PatchSizes
from hybrid_patch.data.batch import Draw
from hybrid_patch.data.loading import Crop, MaskedCrop, collate
from hybrid_patch.data.modality import Modality
from hybrid_patch.interpolation import repeat_cells
from hybrid_patch.masking import Mask, coarse_presence
from hybrid_patch.nn.model import HybridModel
from hybrid_patch.patches import cut
from hybrid_patch.tokens import Positions


@torch.no_grad()
def embed(
    model: HybridModel, crop: Crop, sizes: PatchSizes, modalities: Mapping[str, Modality], device: torch.device
) -> Float[Tensor, "height width d"]:
    """`[H, W, D]`: for every pixel the mean of its fine tokens over modalities, timesteps and band sets.

    At an output patch size above 1 the pixels of a patch share its token. A pixel without any token is zeros. Nothing
    is hidden from the encoder.
    """
    inputs = [name for name, modality in modalities.items() if not modality.decode_only]
    masks = {}
    for name, valid in crop.valid.items():
        present = coarse_presence(valid[None], sizes.processing, len(modalities[name].band_sets))
        masks[name] = np.where(present, Mask.ENCODE, Mask.MISSING).astype(np.int8)
    nothing = Draw(torch.zeros(0, dtype=torch.long), torch.zeros(0))
    batch = collate([MaskedCrop(crop, masks, {})], inputs, nothing).map(lambda x: x.to(device))
    patches = {name: cut(pixels, sizes.processing) for name, pixels in batch.pixels.items()}
    _, latents = model.encode(patches, batch)
    total, count = torch.zeros((), device=device), torch.zeros((), device=device)
    for name, grid in latents.items():
        positions = Positions.everywhere(grid.mask, sizes.factor)
        fine = model.encoder_upsampler(grid, sizes.factor, positions, batch.guide(name))
        there = grid.mask.flatten(1)[..., None].expand(-1, -1, sizes.factor**2)
        total = total + fine.summed_images(there)
        count = count + repeat_cells(grid.mask.sum((3, 4)), sizes.factor)[..., None]
    return repeat_cells(total / count.clamp(min=1), sizes.output)[0]

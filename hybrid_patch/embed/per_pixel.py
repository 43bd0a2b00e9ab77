"""Per-pixel embeddings: batches in which nothing is masked, and how the tokens of each pixel are pooled."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.batch import Batch, QuerySampling
from hybrid_patch.data.crops import Crop, MaskedCrop, collate
from hybrid_patch.data.masking import Mask, coarse_presence

Pooling = Literal["mean", "concat"]
"""Over modalities, timesteps and band sets: their mean, or their concatenation."""


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

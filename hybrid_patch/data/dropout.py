"""What a training step leaves out of a sample at random, beside its masks: input bands, and residual branches."""

import numpy as np
from jaxtyping import Bool

from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Transformer

Array = np.ndarray


def draw_band_mask(max_share: float, modality: Modality, rng: np.random.Generator) -> Bool[Array, " c"]:
    """The bands of a sample that the encoder may look at.

    In each band set, a share is drawn up to the largest, and each band is dropped with that probability; if none is
    left, one is. A single band is never dropped.
    """
    mask = np.ones(modality.channels, dtype=bool)
    for channels in modality.band_set_channels:
        visible = rng.random(len(channels)) >= rng.random() * max_share
        if not visible.any():
            visible[rng.integers(len(channels))] = True
        mask[list(channels)] = visible
    return mask


def draw_path_mask(size: Transformer, views: int, rng: np.random.Generator) -> Bool[Array, "v depth 2"]:
    """The residual branches, attention and MLP, of each block that a step does not leave out of a sample's views."""
    return rng.random((views, size.depth, 2)) >= size.drop_path

"""Reconstruction of pixels from predicted tokens, as in masked autoencoders."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hybrid_patch.tokens import FineTokens


def reconstruction(
    predictions: FineTokens,
    weight: Float[Tensor, "d n"],
    bias: Float[Tensor, " n"],
    pixels: Float[Tensor, "b fh fw t n"],
    take: Bool[Tensor, "b fh fw t s"],
    band_set: int,
) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """Mean squared error of a band set's pixels per sample (He et al. 2022, "Masked Autoencoders", without their norm).

    Args:
        predictions: tokens `[B, H, W, T, S, D]`, factored.
        weight, bias: the linear map from a token to the pixels of its output patch.
        pixels: normalised, cut into output patches (`patches`).
        take: positions that count.

    Returns:
        `[B]` the loss of each sample, an exact 0 where it has no position; and whether it has any.
    """
    predicted = predictions.float().transform(weight, bias).dense()[..., band_set, :]
    taken = take[..., band_set]
    error = torch.where(taken, (predicted - pixels).square().mean(-1), 0)
    count = taken.flatten(1).sum(1)
    return error.flatten(1).sum(1) / count.clamp(min=1), count > 0

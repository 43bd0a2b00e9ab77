"""Reconstruction of pixels from predicted tokens, as in masked autoencoders."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hybrid_patch.loss.queries import Queries
from hybrid_patch.model.tokens import Tokens


def reconstruction(
    predictions: Tokens,
    pixels: Float[Tensor, "b n subpixels m"],
    counted: Bool[Tensor, "b r m"],
    take: Bool[Tensor, "b n subpixels"],
    queries: Queries,
) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """Mean squared error of a modality's pixels per sample (He et al. 2022, "Masked Autoencoders", without their norm).

    Args:
        predictions: of the pixels of an output patch, at the positions of the queries, factored.
        pixels: normalised, of all subpixels of all cells that may be asked about.
        counted: which of the pixels' numbers count in a query's cell: those of the tokens' own band set.
        take: the subpixels that count (no missing pixel).
        queries: which of them are worked out; the mean over all is estimated by theirs.

    Returns:
        `[B]` the loss of each sample, an exact 0 where it has no position; and whether it has any.
    """
    predicted = predictions.dense()
    own = counted[:, :, None]
    squares = torch.where(own, (predicted - queries.of(pixels)).square(), 0).sum(-1) / own.sum(-1)
    return queries.mean(squares, take)

"""Instance contrast: two maskings of one sample are closer to each other than to other samples."""

import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hybrid_patch.loss.all_gather import first_row, gather_rows
from hybrid_patch.loss.cells import Cells
from hybrid_patch.loss.heads import ProjectAndAggregate
from hybrid_patch.model.tokens import FineTokens


class TokenSum(NamedTuple):
    """Of the fine tokens of one modality, for each sample and view.

    Attributes:
        total: their sum, of their projections if these come before pooling.
        number: how many.
    """

    total: Float[Tensor, "bv d"]
    number: Int[Tensor, " bv"]


def token_sum(aggregate: ProjectAndAggregate, fine: FineTokens, cells: Cells) -> TokenSum:
    """The sum over all measured fine tokens of some cells.

    What is interpolated is summed up whole, which takes no fine tokens. Where positions are drawn, the sum of the
    details is estimated from these: a detail at every position would cost more than all else that is fine. Projections
    before pooling need the fine tokens of all positions.

    Args:
        fine: tokens at `cells.positions`; at `cells.everywhere` if they are projected before pooling.
    """
    take = cells.measured
    if aggregate.before_pooling or not cells.queries.drawn:
        total = aggregate.total(fine.float(), take)
    else:
        interpolated = dataclasses.replace(fine, positions=cells.everywhere, detail=None, basis=None)
        detail = fine.float().detail_sum(cells.at_positions(take)) * cells.queries.weight[:, None]
        total = interpolated.float().pooled_sum(take) + detail
    return TokenSum(total, take.flatten(1).sum(1))


def instance_contrast(
    first: Float[Tensor, "b d"], second: Float[Tensor, "b d"], temperature: float
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE (van den Oord et al. 2018) between the pooled vectors of two views of a batch.

    The other samples are those of all processes, so that the loss does not depend on how a batch is shared out.
    """
    a, b = F.normalize(first.float(), dim=-1), F.normalize(second.float(), dim=-1)
    label = torch.arange(len(a), device=a.device) + first_row(a)
    return (
        F.cross_entropy(a @ gather_rows(b).mT / temperature, label)
        + F.cross_entropy(b @ gather_rows(a).mT / temperature, label)
    ) / 2

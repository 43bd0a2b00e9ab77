"""What turns tokens into what a loss compares."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hybrid_patch.model.tokens import FineTokens


class ProjectAndAggregate(nn.Module):
    """One vector per sample: the mean of its fine tokens of all modalities, projected before it is taken or after.

    With one layer the projection is linear: its order and that of upsampling do not matter then, and the mean is taken
    first, which needs no fine tokens. With more, a projection of every fine token makes them all.
    """

    def __init__(self, width: int, layers: int, before_pooling: bool) -> None:
        super().__init__()
        self.before_pooling = before_pooling and layers > 1
        others = [module for _ in range(layers - 1) for module in (nn.ReLU(), nn.Linear(width, width))]
        self.projection = nn.Sequential(nn.Linear(width, width), *others)

    def forward(self, total: Float[Tensor, "b d"], count: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """`[B, D]` of the sums over all modalities, and of how many tokens.

        A sample without any gives the projection of zeros, or zeros.
        """
        mean = total / count.clamp(min=1)[:, None]
        return mean if self.before_pooling else self.projection(mean)

    def total(self, fine: FineTokens, take: Bool[Tensor, "b n p"]) -> Float[Tensor, "b d"]:
        """The sum over some fine tokens, of their projections if these come before pooling."""
        if not self.before_pooling:
            return fine.pooled_sum(take)
        return torch.where(take[..., None], self.projection(fine.dense()), 0).flatten(1, 2).sum(1)

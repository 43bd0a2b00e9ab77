"""What turns tokens into what a loss compares."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hybrid_patch.tokens import FineTokens


class ProjectAndAggregate(nn.Module):
    """One vector per sample: the mean of its fine tokens of all modalities, through a linear map.

    The mean and the map are linear, so neither their order nor upsampling needs the fine tokens themselves.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(
        self, latents: Mapping[str, FineTokens], take: Mapping[str, Bool[Tensor, "b _ _"]]
    ) -> Float[Tensor, "b d"]:
        """`[B, D]` of the tokens to take; a sample without any gives the map's bias."""
        total = torch.stack([fine.pooled_sum(take[name]) for name, fine in latents.items()]).sum(0)
        count = torch.stack([chosen.flatten(1).sum(1) for chosen in take.values()]).sum(0)
        return self.linear(total / count.clamp(min=1)[:, None])

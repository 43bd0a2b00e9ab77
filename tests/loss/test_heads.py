"""One vector per sample: projected before or after the mean, held to the plain thing."""

import pytest
import torch
from torch import Tensor

from hybrid_patch.loss.instance import ProjectAndAggregate
from hybrid_patch.model.tokens import FineTokens, Positions, TokenGrid


def some_tokens(seed: int, t: int) -> tuple[FineTokens, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.rand(3, 2, 2, t, 1, generator=rng) < 0.7
    where = Positions.everywhere(mask, 4)
    detail, basis = torch.randn(3, 4 * t, 16, 5, generator=rng), torch.randn(5, 16, generator=rng)
    tokens = TokenGrid(torch.randn(*mask.shape, 16, generator=rng), mask)
    loss_mask = mask.flatten(1)[..., None] & (torch.rand(3, 4 * t, 16, generator=rng) < 0.8)
    return FineTokens(tokens, 4, where, detail, basis), loss_mask


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_projection_and_mean(layers: int, before: bool) -> None:
    torch.manual_seed(0)
    head = ProjectAndAggregate(16, layers, before)
    latents = {"a": some_tokens(1, 2), "b": some_tokens(2, 1)}
    totals = [head.total(fine, loss_mask) for fine, loss_mask in latents.values()]
    counts = [loss_mask.flatten(1).sum(1) for _, loss_mask in latents.values()]
    actual = head(torch.stack(totals).sum(0), torch.stack(counts).sum(0))
    for sample in range(3):
        tokens = torch.cat([fine.dense()[sample][loss_mask[sample]] for fine, loss_mask in latents.values()])
        expected = head.projection(tokens).mean(0) if before else head.projection(tokens.mean(0))
        torch.testing.assert_close(actual[sample], expected)

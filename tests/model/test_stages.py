"""Upsamplers that work in stages: transposed convolutions, curricula, and the factors that they can do."""

import pytest
import torch
import torch.nn.functional as F
from building import shaken, under, upsampler_of
from torch import Tensor

from hybrid_patch.config.curriculum import prime_factors
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.tokens import DenseTokens, FineTokens, Positions, TokenGrid, images
from hybrid_patch.model.upsampler import TokenSpec
from hybrid_patch.model.upsampler.learned import Learned
from hybrid_patch.model.upsampler.subpixel import Subpixel
from hybrid_patch.model.upsampler.transposed import Transposed

DOUBLE = torch.float64


def test_the_learned_stages_are_transposed_convolutions() -> None:
    upsampler = Learned(TokenSpec(6, {2, 4, 8}), width=16).double()
    grid = torch.randn(2, 3, 4, 6, dtype=DOUBLE)
    mask = torch.ones(2, 3, 4).bool()
    x = grid.movedim(-1, 1)
    for stage in upsampler.stages:
        assert isinstance(stage, torch.nn.Linear)
        kernel = stage.weight.reshape(2, 2, -1, stage.in_features).permute(3, 2, 0, 1)
        bias = stage.bias.reshape(4, -1)
        y = F.conv_transpose2d(x, kernel, stride=2)
        y = y + bias.reshape(2, 2, -1).movedim(-1, 0).repeat(1, x.shape[2], x.shape[3])
        x = F.gelu(y)
    fine = upsampler(TokenGrid(grid, mask), 8, Positions.everywhere(mask, 8))
    assert isinstance(fine, FineTokens)
    assert fine.detail is not None
    torch.testing.assert_close(images(fine.detail[..., -8:], (3, 4), 8), x.movedim(1, -1))


@pytest.mark.parametrize("factor", [2, 4, 6, 8])
def test_transposed_tokens_are_those_of_torchs_transposed_convolutions(factor: int) -> None:
    """Without interpolation: a chain of `conv_transpose2d` at full width, norms and GELU between them."""
    upsampler = Transposed(TokenSpec(6, {1, 2, 4, 8} if factor != 6 else {6})).double()
    shaken(upsampler)
    mask = torch.ones(2, 3, 4).bool()
    x = grid = torch.randn(2, 3, 4, 6, dtype=DOUBLE)
    for depth, side in enumerate(prime_factors(factor)):
        stage = upsampler.stages[depth]
        assert isinstance(stage, torch.nn.Linear)
        if depth:
            x = F.gelu(upsampler.norms[depth - 1](x))
        kernel = stage.weight.reshape(side, side, 6, 6).permute(3, 2, 0, 1)
        bias = stage.bias.reshape(side, side, 6).movedim(-1, 0).repeat(1, x.shape[1], x.shape[2])
        x = (F.conv_transpose2d(x.movedim(-1, 1), kernel, stride=side) + bias).movedim(1, -1)
    fine = upsampler(TokenGrid(grid, mask), factor, Positions.everywhere(mask, factor))
    assert isinstance(fine, DenseTokens)
    torch.testing.assert_close(images(fine.dense(), (3, 4), factor), x)


@pytest.mark.parametrize("name", ["learned", "subpixel"])
def test_a_finer_stage_begins_with_what_the_coarser_one_has_learned(name: str) -> None:
    """Trained at 8→4, and now comes 8→2: every place has the detail of the place that it is a part of."""
    upsampler = upsampler_of(name, 2, 4, 8)
    mask = torch.ones(1, 2, 2).bool()
    grid = TokenGrid(torch.randn(1, 2, 2, 6, dtype=DOUBLE), mask)

    def detail(factor: int) -> Tensor:
        positions = Positions.everywhere(mask, factor)
        interpolated = upsampler_of("bilinear", factor)(grid, factor, positions).dense()
        fine = upsampler(grid, factor, positions).dense() - interpolated
        return images(fine, (2, 2), factor)

    assert isinstance(upsampler, Learned | Subpixel)
    torch.nn.init.normal_(upsampler.exits["2"] if isinstance(upsampler, Learned) else upsampler.basis)
    optimizer = torch.optim.SGD(upsampler.parameters(), lr=1.0)
    detail(2).mul(torch.randn(4, 4, 6).double()).sum().backward()
    optimizer.step()
    if isinstance(upsampler, Learned):
        assert not upsampler.exits["4"].any()
    assert not torch.equal(detail(2)[:, 0, 0], detail(2)[:, 1, 1])
    torch.testing.assert_close(detail(4), repeat_cells(detail(2), 2))


@pytest.mark.parametrize("name", ["learned", "subpixel", "transposed"])
def test_a_factor_that_was_not_planned_is_refused(name: str) -> None:
    grid = TokenGrid(torch.zeros(1, 2, 2, 6), torch.ones(1, 2, 2).bool())
    upsampler = upsampler_of(name, 8).float()
    with pytest.raises(ValueError, match="factor 3"):
        upsampler(grid, 3, under(grid.mask, 3))

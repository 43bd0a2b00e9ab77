"""The sum of all fine tokens, of which the details are estimated from drawn positions."""

import dataclasses

import pytest
import torch
from building import MODALITIES, make_batch, small
from torch import Tensor

from hybrid_patch.data.batch import Draw
from hybrid_patch.loss.cells import cells_of
from hybrid_patch.loss.instance import token_sum
from hybrid_patch.loss.objective import Objective
from hybrid_patch.nn.heads import ProjectAndAggregate
from hybrid_patch.patches import cut
from hybrid_patch.tokens import FineTokens, Positions

FACTOR, DRAWN = 8, 16


@pytest.mark.parametrize("upsampler", ["bilinear", "learned", "subpixel", "guided"])
@pytest.mark.parametrize("means", [False, True])
@pytest.mark.parametrize("before_pooling", [False, True])
def test_the_mean_of_all_draws_is_the_sum_over_all_positions(upsampler: str, means: bool, before_pooling: bool) -> None:
    torch.manual_seed(0)
    batch = make_batch(8, missing=0.2)
    objective = Objective(small("patch=hybrid", f"upsampler={upsampler}"), MODALITIES)
    for parameter in objective.model.encoder_upsampler.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    patches = {name: cut(pixels, 8) for name, pixels in batch.pixels.items()}
    grid = objective.model.encode(patches, batch)[1]["optical"]
    aggregate = ProjectAndAggregate(grid.tokens.shape[-1], 2, before_pooling)
    packing = batch.encoded.each["optical"]
    cells = packing.index.shape[1]

    def upsample(positions: Positions) -> FineTokens:
        return objective.model.encoder_upsampler(grid, FACTOR, positions, batch.guide("optical"))

    def found(most: int | None, draw: Draw) -> Tensor:
        drawn_from = dataclasses.replace(batch, draw=draw)
        some = cells_of("optical", drawn_from, patches["optical"], 1, packing, most, cells, means)
        assert some.queries.drawn == (most is not None)
        total, count = token_sum(aggregate, upsample(some.positions), some, FACTOR, upsample)
        assert torch.equal(count, some.measured.flatten(1).sum(1))
        return total

    exact = found(None, batch.draw)
    if means:  # so many cells that each stands for a part of equal length
        most = cells // 2
        draws = [
            Draw(batch.draw.places, torch.full_like(batch.draw.strata[:most], (i + 0.5) / cells)) for i in range(cells)
        ]
    else:
        most = cells * DRAWN
        everything = torch.randperm(FACTOR**2)
        draws = [Draw(everything.roll(-i * DRAWN), batch.draw.strata) for i in range(FACTOR**2 // DRAWN)]
    estimates = torch.stack([found(most, draw) for draw in draws])
    torch.testing.assert_close(estimates.mean(0), exact, rtol=2e-4, atol=2e-4)
    assert torch.allclose(estimates[0], exact) == (before_pooling or upsampler == "bilinear")

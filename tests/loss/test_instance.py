"""The sum of all fine tokens, of which the details are estimated from drawn positions."""

import dataclasses
from typing import Literal

import pytest
import torch
from building import MODALITIES, make_batch, remade, small
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch, QuerySampling
from hybrid_patch.data.masking import Mask
from hybrid_patch.train.step import TrainingModule

FACTOR, FEW, CELLS = 8, 16, 8


def batch_of_uneven_samples() -> Batch:
    """In one view half as many cells are seen as in the others."""
    batch = make_batch(8, missing=0.2)
    mask = batch.masks["optical"].clone()
    visible = (mask[0] == Mask.ENCODE).nonzero()
    assert len(visible) == CELLS
    mask[0][tuple(visible[CELLS // 2 :].T)] = Mask.DECODE
    return remade(batch, masks={**batch.masks, "optical": mask})


def draws(cells: int, subpixels: list[Tensor]) -> list[QuerySampling]:
    """All of them: `cells` of a sample's cells at each of some lists of subpixels."""
    strata = [torch.full((cells,), (i + 0.5) / CELLS) for i in range(CELLS if cells < CELLS else 1)]
    return [QuerySampling(some, stratum) for some in subpixels for stratum in strata]


EVERYWHERE = torch.arange(FACTOR**2)
DRAWS = {
    "some subpixels of all cells": draws(CELLS, [EVERYWHERE.roll(-i) for i in range(0, FACTOR**2, FEW)]),
    "a place of some cells": draws(CELLS // 2, [EVERYWHERE.roll(-i) for i in range(FACTOR**2)]),
    "means of some cells": draws(CELLS // 2, [EVERYWHERE]),
}
MOST = {
    "some subpixels of all cells": CELLS * FEW,
    "a place of some cells": CELLS // 2,
    "means of some cells": CELLS // 2,
}

CASES = [(upsampler, case) for case in DRAWS for upsampler in ("bilinear", "learned", "subpixel", "guided")]
CASES += [("transposed", case) for case in ("some subpixels of all cells", "means of some cells")]


@pytest.mark.parametrize(
    ("upsampler", "case"),
    [CASES[0], CASES[3], *(pytest.param(*each, marks=pytest.mark.slow) for each in (*CASES[1:3], *CASES[4:]))],
)
def test_the_mean_of_all_draws_is_the_sum_over_all_positions(upsampler: str, case: str) -> None:
    torch.manual_seed(0)
    batch, means = batch_of_uneven_samples(), case.startswith("means")
    module = TrainingModule(small("patch=hybrid", f"upsampler={upsampler}"), MODALITIES)
    for parameter in module.model.encoder_upsampler.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    objective = module.objective
    (term,) = (term for term in objective.active_terms() if term.name == "instance")

    def actual(most: int | None, sampling: QuerySampling) -> Tensor:
        patch_size: Literal["processing", "output"] = "processing" if means else "output"
        objective.loss = dataclasses.replace(objective.loss, max_queries=most, target_patch_size=patch_size)
        passed = module.forward_pass(dataclasses.replace(batch, query_sampling=sampling), PatchSizes(FACTOR, 1))
        some = objective.cells("optical", passed, "encoder")
        assert some.queries.drawn == (most is not None)
        total, count = objective.parts(passed, "encoder", [term])["instance"][0]
        assert torch.equal(count, some.valid_mask.flatten(1).sum(1))
        assert len(count.unique()) > 1
        return total

    exact = actual(None, batch.query_sampling)
    estimates = torch.stack([actual(MOST[case], sampling) for sampling in DRAWS[case]])
    torch.testing.assert_close(estimates.mean(0), exact, rtol=2e-4, atol=2e-4)
    assert torch.allclose(estimates[0], exact) == (upsampler == "bilinear")

"""`target=self`: the terms against a plain reference, in parts as a whole, and what they must not look at."""

import dataclasses

import torch
from building import OPTICAL, make_batch, remade, small
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch, Taught
from hybrid_patch.data.masking import Mask
from hybrid_patch.model.tokens import Positions
from hybrid_patch.train.step import TrainingModule, TrainingStep

MODALITIES = {"optical": OPTICAL}
SIZES = PatchSizes(4, 1)
OPTIONS = (
    "patch=hybrid_4to1",
    "target=self",
    "loss=visible",
    "masking=none",
    "target.window=8",
    "target.numbers=6",
    "masking.views=1",
    "loss.instance.weight=0",
)
NUMBERS = 6


def taught_batch(missing: float = 0.2) -> Batch:
    """Three samples of 16 pixels, all of them visible, with a teacher's numbers for windows of 8 pixels."""
    batch = make_batch(4, MODALITIES, missing=missing)
    masks = {name: mask[::2] for name, mask in batch.masks.items()}  # one view
    masks = {name: torch.where(mask == Mask.MISSING, mask, Mask.ENCODE).to(mask.dtype) for name, mask in masks.items()}
    rng = torch.Generator().manual_seed(3)
    numbers = torch.randn(3, 8, 8, 2, 2, NUMBERS, generator=rng).half()
    corner = torch.tensor([[0, 0], [4, 8], [8, 4]])
    return dataclasses.replace(remade(batch, masks=masks), taught=Taught({"optical": numbers}, corner))


def module_for(*options: str) -> TrainingModule:
    torch.manual_seed(0)
    module = TrainingModule(small(*OPTIONS, *options, "upsampler=guided", "upsampler.rank=8"), MODALITIES)
    for parameter in module.model.encoder_upsampler.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    rng = torch.Generator().manual_seed(1)
    projection = torch.randn(32, NUMBERS, generator=rng) / 4
    module.objective.set_projection("optical", torch.randn(32, generator=rng), projection)
    return module


def plain_terms(module: TrainingModule, batch: Batch) -> dict[str, Tensor]:
    """Pixel by pixel: every token of every sample's window, from the dense tokens of the whole crop."""
    passed = module.forward_pass(batch, SIZES)
    grid = passed._encoded["optical"]
    where = Positions.everywhere(grid.mask, 4)
    fine = module.model.encoder_upsampler(grid, 4, where, batch.guide("optical")).dense()
    b, h, w, t, s = grid.mask.shape
    image = fine.reshape(b, h, w, t, s, 4, 4, -1).permute(0, 1, 5, 2, 6, 3, 4, 7).reshape(b, 16, 16, t, s, -1)
    visible_mask = grid.mask.repeat_interleave(4, 1).repeat_interleave(4, 2) & batch.valid["optical"][..., None]
    assert batch.taught is not None
    mean, projection = (module.objective.get_buffer(f"optical_{name}") for name in ("mean", "projection"))
    contrast, squares = [], []
    for sample, (row, column) in enumerate(batch.taught.corner.tolist()):
        part = (slice(row, row + 8), slice(column, column + 8))
        chosen = visible_mask[sample][part]
        predicted = ((image[sample][part] - mean) @ projection)[chosen]
        target = batch.taught.numbers["optical"][sample].float()[chosen]
        cosines = torch.nn.functional.normalize(predicted, dim=-1) @ torch.nn.functional.normalize(target, dim=-1).T
        tau = module.objective.loss.visible.temperature
        loss = torch.logsumexp(cosines / tau, dim=1) - cosines.diagonal() / tau
        contrast.append(2 * tau * loss.mean())
        squares.append((predicted - target).square().mean())
    return {"visible": torch.stack(contrast).mean(), "regression": torch.stack(squares).mean()}


def test_the_terms_are_those_of_a_plain_reference() -> None:
    module, batch = module_for(), taught_batch()
    terms, expected = module(batch, SIZES), plain_terms(module, batch)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["loss"], terms["visible"] + terms["regression"])


def test_a_step_in_parts_gives_the_gradients_of_a_step_as_a_whole() -> None:
    gradients = []
    for parts in (1, 3):
        module = module_for()
        TrainingStep(module, torch.optim.SGD(module.parameters()), 1.0, parts).backpropagate(taught_batch(), SIZES)
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    whole, in_parts = gradients
    assert whole.keys() == in_parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(in_parts[name], gradient, rtol=1e-4, atol=1e-6)


def test_what_weighs_nothing_is_not_computed() -> None:
    assert module_for("target.regression=0")(taught_batch(), SIZES).keys() == {"loss", "visible"}
    assert module_for("loss.visible.weight=0")(taught_batch(), SIZES).keys() == {"loss", "regression"}


def test_a_sample_without_a_pixel_in_its_window_counts_for_nothing() -> None:
    batch = taught_batch()
    valid = batch.valid["optical"].clone()
    valid[1, 4:12, 8:16] = False
    terms = module_for()(dataclasses.replace(batch, valid={"optical": valid}), SIZES)
    assert all(bool(value.isfinite()) for value in terms.values())
    others = torch.tensor([0, 2])
    rest = batch.split(3)
    alone = [module_for()(rest[int(sample)], SIZES)["regression"] for sample in others]
    torch.testing.assert_close(terms["regression"], torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)

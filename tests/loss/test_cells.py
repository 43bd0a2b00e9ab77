"""The loss at the processing patch size: means over coarse cells, held to the plain means of dense tokens."""

import pytest
import torch
import torch.nn.functional as F
from building import MODALITIES, dense_predictions, dense_targets, make_batch, query_sampling_for, remade, small
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.packing import pack
from hybrid_patch.data.patchify import patchify, repatchify
from hybrid_patch.model.tokens import DenseTokens, FineTokens, Positions, TokenGrid
from hybrid_patch.train.step import TrainingModule

TEMPERATURE = 0.1
MEANS = ("loss.target_patch_size=processing", "loss.visible.weight=0")


def plain(module: TrainingModule, batch: Batch, sizes: PatchSizes, name: str) -> Tensor:
    """The loss of each sample that has one: means by hand, the whole matrix, torch's cross-entropy."""
    cells, sets = batch.decoded.each[name], len(MODALITIES[name].band_sets)
    loss_mask = batch.valid_patches(name, cells, sizes.output)
    patches = repatchify(patchify(batch.pixels[name], sizes.processing), sizes.output).flatten(1, 3)
    pixels, band_set = cells.over(sets).gather(patches), cells.index % sets
    targets = dense_targets(module.objective.targets, name, pixels, band_set, sizes.output)
    losses = []
    for p, t, chosen in zip(dense_predictions(module, batch, sizes, name), targets, loss_mask, strict=True):
        some = chosen.any(1)
        if not some.any():
            continue
        p, t = (torch.stack([x[i][chosen[i]].mean(0) for i in torch.where(some)[0]]) for x in (p, t))
        logits = F.normalize(p, dim=-1) @ F.normalize(t, dim=-1).mT / TEMPERATURE
        losses.append(2 * TEMPERATURE * F.cross_entropy(logits, torch.arange(len(p))))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("decoder", ["processing", "output"])
@pytest.mark.parametrize(("processing", "output"), [(8, 1), (8, 2), (4, 4)])
def test_means_are_compared_with_means(processing: int, output: int, decoder: str) -> None:
    torch.manual_seed(0)
    modalities = {name: MODALITIES[name] for name in ("optical",)}
    config = small(
        f"patch.processing_patch_size={processing}",
        f"patch.output_patch_size={output}",
        f"decoder.patch_size={decoder}",
        "loss.target_patch_size=processing",
        "upsampler=subpixel",
        "loss.visible.weight=0",
        "loss.instance.weight=0",
    )
    module = TrainingModule(config, modalities)
    if decoder == "processing":
        for parameter in module.model.decoder_upsampler.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    sizes, batch = PatchSizes(processing, output), make_batch(processing, modalities, missing=0.1)
    expected = plain(module, batch, sizes, "optical")
    torch.testing.assert_close(module(batch, sizes)["decoded"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_drawn_cells_estimate_the_same() -> None:
    torch.manual_seed(0)
    modules = [
        TrainingModule(
            small("patch=hybrid", *MEANS, f"loss.max_queries={most}"),
            MODALITIES,
        )
        for most in ("null", "3")
    ]
    modules[1].load_state_dict(modules[0].state_dict())
    batch, sizes = make_batch(8), PatchSizes(8, 1)
    expected = modules[0](batch, sizes)["decoded"]
    actual = [
        modules[1](remade(batch, query_sampling=query_sampling_for(64, seed, 3)), sizes)["decoded"].detach()
        for seed in range(200)
    ]
    assert torch.stack(actual).mean().item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("rank", [0, 3])
def test_a_cells_mean_is_that_of_its_dense_tokens(rank: int) -> None:
    torch.manual_seed(0)
    mask = torch.rand(2, 3, 3, 2, 1) < 0.6
    cells = pack(mask.flatten(1))
    positions = Positions(cells, torch.arange(16))
    detail = torch.randn(2, cells.index.shape[1], 16, rank) if rank else None
    basis = torch.randn(rank, 8) if rank else None
    fine = FineTokens(TokenGrid(torch.randn(*mask.shape, 8), mask), 4, positions, detail, basis)
    share = torch.rand(2, cells.index.shape[1], 16)
    expected = (fine.dense() * share[..., None]).sum(2, keepdim=True)
    torch.testing.assert_close(fine.cell_means(share).tokens, expected)
    torch.testing.assert_close(DenseTokens(fine.dense()).cell_means(share).tokens, expected)


def test_equal_means_of_a_map_are_no_negatives() -> None:
    """A map of one class: nothing to tell apart, and so no loss."""
    module = TrainingModule(small("patch=hybrid", *MEANS), MODALITIES)
    batch, sizes = make_batch(8), PatchSizes(8, 1)
    one_class = torch.zeros_like(batch.pixels["cover"])
    one_class[..., 1] = 1
    batch = remade(batch, pixels={**batch.pixels, "cover": one_class})
    (term,) = (term for term in module.objective.active_terms() if term.name == "decoded")
    parts = module.objective.parts(module.forward_pass(batch, sizes), "decoder", [term])["decoded"]
    loss = dict(zip(MODALITIES, parts, strict=True))["cover"]
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-5)

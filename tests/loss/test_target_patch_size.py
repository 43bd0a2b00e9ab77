"""`loss.target_patch_size=1`: a token against the mean of its pixels' unit targets, by hand and pixel by pixel."""

import pytest
import torch
import torch.nn.functional as F
from building import (
    MODALITIES,
    crops_of,
    dense_predictions,
    dense_targets,
    make_batch,
    query_sampling_for,
    remade,
    small,
)
from torch import Tensor

from hybrid_patch.config.compose import compose
from hybrid_patch.config.curriculum import PatchSizes, all_sizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.patchify import patchify, repatchify
from hybrid_patch.errors import InputError
from hybrid_patch.loss.context import context_keys
from hybrid_patch.loss.context_targets import ContextTargets
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.train.step import TrainingModule

CASES = [
    *((8, output, 0.3, name) for output in (8, 4) for name in MODALITIES),
    (8, 8, 0.0, "optical"),
    (8, 1, 0.3, "height"),
]
PIXELS, TEMPERATURE = "loss.target_patch_size=1", 0.1


def module_for(processing: int, output: int, *overrides: str) -> TrainingModule:
    torch.manual_seed(0)
    sizes = (f"patch.processing_patch_size={processing}", f"patch.output_patch_size={output}")
    return TrainingModule(small(*sizes, "upsampler=subpixel", *overrides), MODALITIES)


def batch_for(processing: int, output: int, missing: float, samples: int = 3, most: int = 16) -> Batch:
    batch = make_batch(processing, missing=missing, samples=samples)
    return remade(batch, query_sampling=query_sampling_for((processing // output) ** 2, most=most))


def mean_target(targets: RandomTargets, name: str, batch: Batch, sizes: PatchSizes, cell: int, view: int) -> Tensor:
    """`[f^2, D]` in float64: of each output patch the mean of its valid pixels' unit targets; NaN without any."""
    sets = len(MODALITIES[name].band_sets)
    _, _, w, t, _ = batch.masks[name].shape
    place, date, band_set = cell // (t * sets), cell // sets % t, cell % sets
    factor, means = sizes.factor, []
    for subpixel in range(factor**2):
        top = place // w * sizes.processing + subpixel // factor * sizes.output
        left = place % w * sizes.processing + subpixel % factor * sizes.output
        patch = (view // batch.views, slice(top, top + sizes.output), slice(left, left + sizes.output), date)
        pixels = batch.pixels[name][patch][batch.valid[name][patch]].double()
        which = torch.tensor([[band_set]])
        units = F.normalize(dense_targets(targets.double(), name, pixels[None, None], which, 1)[0, 0], dim=-1)
        means.append(units.mean(0))
    targets.float()
    return torch.stack(means)


def plain(module: TrainingModule, batch: Batch, sizes: PatchSizes, name: str) -> Tensor:
    """The mean over samples of the cross-entropy over the whole matrix; equal means of a map are no negatives."""
    cells, losses = batch.decoded.each[name], []
    for view, predicted in enumerate(dense_predictions(module, batch, sizes, name).double()):
        of_cells = enumerate(cells.index[view].tolist())
        valid_cells = [(row, cell) for row, cell in of_cells if cells.valid()[view, row]]
        if not valid_cells:
            continue
        t = torch.cat(
            [mean_target(module.objective.targets, name, batch, sizes, cell, view) for _, cell in valid_cells]
        )
        p = torch.cat([predicted[row] for row, _ in valid_cells])
        valid = t.isfinite().all(-1)
        if not valid.any():
            continue
        p, t = F.normalize(p[valid], dim=-1), F.normalize(t[valid], dim=-1)
        logits = p @ t.mT / TEMPERATURE
        if name == "cover":
            equal = (t[:, None] - t[None]).abs().amax(-1) < 1e-9
            logits = logits.masked_fill(equal & ~torch.eye(len(t)).bool(), -torch.inf)
        losses.append(2 * TEMPERATURE * F.cross_entropy(logits, torch.arange(len(t))))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("processing", "output", "missing", "name"), CASES)
def test_a_token_is_compared_with_the_mean_of_its_pixels_unit_targets(
    processing: int, output: int, missing: float, name: str
) -> None:
    module, sizes = module_for(processing, output, PIXELS), PatchSizes(processing, output)
    batch = batch_for(processing, output, missing, samples=2)
    (term,) = (term for term in module.objective.active_terms() if term.name == "decoded")
    passed = module.forward_pass(batch, sizes)
    parts = module.objective.parts(passed, "decoder", [term])["decoded"]
    counts = module.objective.batch_context(batch, sizes).counts["decoder"]
    of_modality = parts[list(MODALITIES).index(name)].sum() / counts[list(MODALITIES).index(name)]
    expected = plain(module, passed.batch, sizes, name).float()
    torch.testing.assert_close(of_modality, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("width", [4, 32])  # narrower than a pixel's numbers, and wider
def test_factored_means_are_those_of_dense_unit_targets(width: int, coded: bool) -> None:
    targets = RandomTargets(MODALITIES, width, [1], seed=0, centre=True).double()
    patches, band_set = torch.rand(2, 5, 4, 16, 4).double(), torch.randint(2, (2, 5))
    shares = F.normalize((torch.rand(2, 5, 4, 16) < 0.5).double(), p=1, dim=-1)
    shares[0, 0, 0] = 0  # no valid pixel
    keys = targets.mean_keys("optical", patches, shares, band_set, 1, coded)
    units = F.normalize(dense_targets(targets, "optical", patches.flatten(2, 3), band_set, 1), dim=-1)
    expected = F.normalize((units.unflatten(2, (4, 16)) * shares[..., None]).sum(3), dim=-1)
    predicted = torch.randn(width).double()
    query = predicted if keys.projection is None else predicted @ keys.projection
    torch.testing.assert_close(keys.vectors @ query, expected @ predicted)
    assert (keys.code is not None) == coded
    assert keys.vectors.shape[-1] <= width + 2


def test_means_of_the_same_pixels_in_another_order_have_equal_codes() -> None:
    targets = RandomTargets(MODALITIES, 32, [1], seed=0, centre=True)
    classes = F.one_hot(torch.randint(4, (1, 1, 1, 64)), 4).float()
    patches = torch.cat([classes[..., torch.randperm(64), :] for _ in range(40)], dim=2)
    shares, band_set = torch.full((1, 1, 40, 64), 1 / 64), torch.zeros(1, 1, dtype=torch.long)
    code = targets.mean_keys("cover", patches, shares, band_set, 1, True).code
    assert code is not None
    assert code.max() - code.min() < 1e-14
    patches[0, 0, 0, 0] = patches[0, 0, 0, 0].roll(1)
    other = targets.mean_keys("cover", patches, shares, band_set, 1, True).code
    assert other is not None
    assert (other[0, 0, 0] - other[0, 0, 1:]).abs().min() > 1e-6


@pytest.mark.parametrize("overrides", [(), ("loss.max_queries=20",), ("loss.merge_duplicates=true",)])
def test_at_output_patch_size_1_nothing_changes(overrides: tuple[str, ...]) -> None:
    results = []
    for option in ("loss.target_patch_size=output", PIXELS):
        module = module_for(8, 1, option, "loss.reconstruct.weight=0.5", *overrides)
        batch = batch_for(8, 1, 0.2, most=20)
        terms = module(batch, PatchSizes(8, 1))
        terms["loss"].backward()
        results.append((terms, {name: p.grad for name, p in module.named_parameters() if p.grad is not None}))
    for first, second in zip(*results, strict=True):
        assert set(first) == set(second)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_targets_of_all_stages_are_those_of_pixels() -> None:
    torch.manual_seed(0)
    config = small("curriculum=gradual", "upsampler=learned", PIXELS, "loss.reconstruct.weight=0.5")
    module = TrainingModule(config, MODALITIES)
    assert set(module.objective.targets.state_dict()) == {f"{name}_ps1" for name in MODALITIES}
    batch = make_batch(8, missing=0.2)
    for sizes in all_sizes(config.curriculum):
        step = remade(batch, query_sampling=query_sampling_for(sizes.factor**2))
        terms = module(step, sizes)
        assert all(torch.isfinite(term) for term in terms.values())
        assert terms["decoded"] > 0
        cells = module.objective.cells("optical", module.forward_pass(step, sizes), "decoder")
        assert cells.patch_size == 1


@pytest.mark.parametrize(("processing", "output"), [(8, 8), (8, 2)])
def test_an_output_patch_takes_part_if_any_of_its_pixels_is_valid(processing: int, output: int) -> None:
    module, batch = module_for(processing, output, PIXELS), batch_for(processing, output, 0.5)
    sizes = PatchSizes(processing, output)
    passed = module.forward_pass(batch, sizes)
    cells = module.objective.cells("height", passed, "encoder")
    valid = patchify(batch.valid["height"], processing)
    valid = repatchify(valid[..., None], output).flatten(1, 3).any(-1)
    expected = torch.stack([valid[view // 2, cells.packing.index[view]] for view in range(6)])
    assert torch.equal(cells.loss_mask, expected & cells.packing.valid()[..., None])
    whole = batch.valid_patches("height", cells.packing, output)
    assert cells.loss_mask.sum() > whole.sum()
    of_pixels = torch.tensor([batch.valid["height"][view // 2].any() for view in range(6)]).sum()
    assert module.objective.batch_context(batch, sizes).counts["encoder"][1] == of_pixels


def test_reconstructed_are_the_means_of_valid_pixels() -> None:
    module, batch = module_for(8, 8, PIXELS, "loss.reconstruct.weight=1"), make_batch(8, missing=0.3)
    head = module.objective.terms["reconstruct"].heads["height_ps1"]
    assert head.out_features == 1
    passed = module.forward_pass(batch, PatchSizes(8, 8))
    cells = module.objective.cells("height", passed, "decoder")
    image, valid = passed.batch.pixels["height"], batch.valid["height"]
    for view in range(6):
        for row, cell in enumerate(cells.packing.index[view].tolist()):
            if cells.loss_mask[view, row, 0]:
                ground = (view // 2, slice(cell // 2 * 8, cell // 2 * 8 + 8), slice(cell % 2 * 8, cell % 2 * 8 + 8))
                torch.testing.assert_close(cells.pixels[view, row, 0], image[ground][valid[ground]].mean(0))


@pytest.mark.parametrize("output", [2, 8])
def test_the_context_s_targets_are_means_of_pixels_too(output: int) -> None:
    batch, targets = batch_for(8, output, 0.5), ContextTargets(MODALITIES, timesteps=2)
    targets.fit(crops_of(batch))
    keys = context_keys(targets, "height", batch, PatchSizes(8, output), False, True, max_keys=10**6)
    pixels, valid = batch.pixels["height"], batch.valid["height"]
    centred = targets.statistics("height", pixels, valid, batch.timestamps) - targets.get_buffer("height_mean")
    image, valid = F.normalize(centred @ targets.get_buffer("height_whitening"), dim=-1), valid.any(-1)
    factor = 8 // output
    for sample in range(3):
        for cell in range(4):
            for column, subpixel in enumerate(keys.subpixels.tolist()):
                top, left = cell // 2 * 8 + subpixel // factor * output, cell % 2 * 8 + subpixel % factor * output
                patch = (sample, slice(top, top + output), slice(left, left + output))
                assert keys.positive_mask[sample, cell, column] == valid[patch].any()
                if valid[patch].any():
                    expected = F.normalize(image[patch][valid[patch]].mean(0), dim=-1)
                    torch.testing.assert_close(keys.positives[sample, cell, column], expected)


@pytest.mark.parametrize("value", ["2", "8", "pixel", "null"])
def test_other_values_are_refused(value: str) -> None:
    with pytest.raises(InputError, match=r"loss\.target_patch_size=.*: must be 'output', 'processing' or 1"):
        compose([f"loss.target_patch_size={value}"])

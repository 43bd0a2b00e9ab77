"""The whole forward and loss: what is computed, where gradients go, and the same on any number of processes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from building import MODALITIES, make_batch, query_sampling_for, remade, small, some_samples
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.masking import Mask
from hybrid_patch.loss.term import Source
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.tokens import FineTokens, Positions, Tokens
from hybrid_patch.train.step import TrainingModule

ALL_TERMS = ("loss.reconstruct.weight=0.5", "upsampler=learned")
SIZES = [(8, 1), (8, 2), (8, 8), (4, 1), (1, 1)]


def module_for(processing: int, output: int, *overrides: str) -> TrainingModule:
    torch.manual_seed(0)
    sizes = (f"patch.processing_patch_size={processing}", f"patch.output_patch_size={output}")
    return TrainingModule(small(*sizes, *overrides), MODALITIES)


LEARNING = [
    *((*sizes, 0.0, ()) for sizes in SIZES),
    (8, 1, 0.2, ()),
    (1, 1, 0.2, ()),
    (8, 1, 0.0, ("+upsampler@decoder.upsampler=subpixel",)),
    (8, 1, 0.2, ("decoder.patch_size=output",)),
    (8, 1, 0.2, ("upsampler=nearest", "loss.max_queries=5")),
    (8, 1, 0.2, ("upsampler=transposed",)),
    (8, 2, 0.0, ("upsampler=transposed", "loss.target_patch_size=processing", "loss.max_queries=5")),
    (8, 1, 0.2, ("upsampler=transposed", "loss.instance.layers=2", "loss.instance.project=before_pooling")),
    (8, 2, 0.0, ("loss.target_patch_size=processing",)),
    (8, 2, 0.2, ("loss.target_patch_size=1",)),
    (8, 8, 0.2, ("loss.target_patch_size=1", "loss.max_queries=5", "loss.merge_duplicates=true")),
    (8, 1, 0.2, ("decoder.patch_size=output", "loss.target_patch_size=processing", "loss.max_queries=5")),
    (8, 1, 0.2, ("loss.instance.layers=2",)),
    (8, 1, 0.2, ("loss.instance.layers=2", "loss.instance.project=before_pooling")),
]


@pytest.mark.sample(4)
@pytest.mark.parametrize(("processing", "output", "missing", "options"), LEARNING)
def test_every_trainable_parameter_learns_and_no_frozen_one(
    processing: int, output: int, missing: float, options: tuple[str, ...]
) -> None:
    module = module_for(processing, output, *ALL_TERMS, *options)
    optimizer = torch.optim.AdamW(p for p in module.parameters() if p.requires_grad)
    frozen = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for seed in range(2):  # the zero exits of the learned upsampler let gradients through after one step
        optimizer.zero_grad()
        batch = make_batch(processing, missing=missing, seed=seed)
        batch = remade(batch, query_sampling=query_sampling_for((processing // output) ** 2, seed, most=5))
        terms = module(batch, PatchSizes(processing, output))
        terms["loss"].backward()
        optimizer.step()
    assert set(terms) == {"loss", "decoded", "visible", "instance", "reconstruct", "context"}
    without = [n for n, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, frozen[name])


def test_a_term_of_weight_zero_is_not_computed() -> None:
    batch = make_batch(8)
    for name in ("decoded", "visible", "instance", "context"):
        others = {"decoded", "visible", "instance", "context"} - {name}
        module = module_for(8, 1, *(f"loss.{other}.weight=0" for other in others), "upsampler=learned")
        terms = module(batch, PatchSizes(8, 1))
        assert set(terms) == {"loss", name}
        terms["loss"].backward()
        assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
        decoder_learns = any(p.requires_grad for p in module.model.decoder.parameters())
        assert decoder_learns == (name == "decoded")


def test_the_weighted_terms_add_up() -> None:
    terms = module_for(8, 1, *ALL_TERMS)(make_batch(8), PatchSizes(8, 1))
    total = sum(terms[n] for n in ("decoded", "visible", "context"))
    total = total + 0.1 * terms["instance"] + 0.5 * terms["reconstruct"]
    torch.testing.assert_close(terms["loss"], total)


@pytest.mark.parametrize(("processing", "output"), [(8, 1), (8, 8)])
def test_missing_pixels_take_no_part(processing: int, output: int) -> None:
    module, batch = module_for(processing, output, *ALL_TERMS), make_batch(processing, missing=0.3)
    sizes = PatchSizes(processing, output)
    expected = module(batch, sizes)
    missing = {
        name: repeat_cells((mask[:: batch.views] == Mask.MISSING).all(-1), processing)
        for name, mask in batch.masks.items()
    }
    noisy = {name: torch.where(missing[name][..., None], 99.0, x) for name, x in batch.pixels.items()}
    changed = module(remade(batch, pixels=noisy), sizes)
    for name, term in expected.items():
        assert torch.equal(term, changed[name])


ELSEWHERE = [
    (),
    ("decoder.patch_size=output",),
    ("loss.target_patch_size=processing",),
    ("loss.target_patch_size=1", "upsampler=transposed"),
]


@pytest.mark.sample(4)
@pytest.mark.parametrize("options", ELSEWHERE)
@pytest.mark.parametrize(("processing", "output"), [(8, 1), (4, 2), (4, 1)])
def test_missing_pixels_of_a_hidden_patch_are_neither_keys_nor_queries(
    processing: int, output: int, options: tuple[str, ...]
) -> None:
    """What lies at invalid pixels where no view's encoder looks changes no bit of any term."""
    module, batch = module_for(processing, output, *ALL_TERMS, *options), make_batch(processing, missing=0.15)
    batch = remade(batch, query_sampling=query_sampling_for((processing // output) ** 2))
    expected, pixels, changed = module(batch, PatchSizes(processing, output)), {}, 0
    for name, x in batch.pixels.items():
        visible = (batch.masks[name] == Mask.ENCODE).any(-1).unflatten(0, (-1, batch.views)).any(1)
        noisy = ~batch.valid[name] & ~repeat_cells(visible, processing)
        pixels[name], changed = torch.where(noisy[..., None], 99.0, x), changed + int(noisy.sum())
    assert changed > 50
    actual = module(remade(batch, pixels=pixels), PatchSizes(processing, output))
    for name, term in expected.items():
        assert torch.equal(term, actual[name])


@pytest.mark.parametrize(("processing", "output"), [(8, 1), (8, 4), (4, 2), (8, 8)])
def test_an_output_patch_is_measured_if_all_of_its_pixels_are(processing: int, output: int) -> None:
    batch, factor = make_batch(processing, missing=0.02), processing // output
    for name, cells in batch.decoded.each.items():
        actual = batch.valid_patches(name, cells, output)
        sets, t = batch.masks[name].shape[-1], batch.masks[name].shape[3]
        assert actual.any()
        assert output == 1 or not actual.all()
        for view in range(len(actual)):
            for i in range(actual.shape[1]):
                row, column, time, _ = np.unravel_index(
                    int(cells.index[view, i]), (16 // processing, 16 // processing, t, sets)
                )
                for place in range(factor**2):
                    top = row * processing + place // factor * output
                    left = column * processing + place % factor * output
                    patch = batch.valid[name][view // 2, top : top + output, left : left + output, time]
                    assert actual[view, i, place] == (patch.all() and cells.valid()[view, i])


def test_nothing_to_decode_is_an_exact_zero_with_gradients() -> None:
    module, batch = module_for(8, 1, *ALL_TERMS), make_batch(8)
    masks = {name: torch.where(m == Mask.DECODE, Mask.TARGET_ONLY, m) for name, m in batch.masks.items()}
    terms = module(remade(batch, masks=masks), PatchSizes(8, 1))
    assert terms["decoded"] == 0
    assert terms["reconstruct"] == 0
    terms["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters() if p.requires_grad)


def test_an_autocast_around_it_changes_nothing() -> None:
    module, batch, sizes = module_for(8, 1, *ALL_TERMS), make_batch(8), PatchSizes(8, 1)
    expected = module(batch, sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = module(batch, sizes)
    for name, term in terms.items():
        assert term.dtype == torch.float32
        assert torch.equal(term, expected[name])


def test_losses_are_in_float32_where_blocks_are_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_for(8, 1, *ALL_TERMS, "runtime.precision=bf16-mixed")
    passed, objective = module.forward_pass(make_batch(8), PatchSizes(8, 1)), module.objective
    made: dict[tuple[Source, tuple[str, ...]], Any] = {}
    tokens = passed.tokens

    def made_once(source: Source, positions: Mapping[str, Positions]) -> Mapping[str, Tokens]:
        key = (source, tuple(positions))
        if key not in made:
            made[key] = tokens(source, positions)
        return made[key]

    monkeypatch.setattr(passed, "tokens", made_once)
    results = []
    for mixed in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            results.append(objective(passed))
    for name, term in results[0].items():
        assert term.dtype == torch.float32
        assert torch.equal(term, results[1][name])


@pytest.mark.sample(1)
@pytest.mark.parametrize("upsampler", ["bilinear", "learned"])
@pytest.mark.parametrize(("processing", "output"), [(8, 1), (8, 8), (2, 1)])
def test_the_loss_falls_on_one_batch(processing: int, output: int, upsampler: str) -> None:
    module, batch = module_for(processing, output, f"upsampler={upsampler}"), make_batch(processing)
    optimizer = torch.optim.AdamW((p for p in module.parameters() if p.requires_grad), lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        terms = module(batch, PatchSizes(processing, output))
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert losses[-1] < 0.9 * losses[0]


def _gradients(module: torch.nn.Module, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    terms = module(batch, PatchSizes(8, 1))
    terms["loss"].backward()
    inner = module.module if isinstance(module, DistributedDataParallel) else module
    gradients = {name: p.grad for name, p in inner.named_parameters() if p.grad is not None}
    return gradients, {name: term.detach() for name, term in terms.items()}


def _ddp_process(rank: int, world: int, folder: str) -> None:
    """They meet by a file: a server in one of them is gone when the other looks for it last."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    batch = make_batch(8, missing=0.3, samples=4)
    local = some_samples(batch, slice(rank * 4 // world, (rank + 1) * 4 // world))
    module = DistributedDataParallel(module_for(8, 1, *ALL_TERMS))
    torch.save(_gradients(module, local), Path(folder) / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.full
def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    expected, expected_terms = _gradients(module_for(8, 1, *ALL_TERMS), make_batch(8, missing=0.3, samples=4))
    spawn(_ddp_process, (2, str(tmp_path)), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for gradients, _ in results:
        for name, gradient in gradients.items():
            message = f"{name}: {{}}".format  # takes the message of assert_close
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=message)
    for name, term in expected_terms.items():
        torch.testing.assert_close((results[0][1][name] + results[1][1][name]) / 2, term, rtol=1e-5, atol=1e-6)


@pytest.mark.sample(4)
@pytest.mark.parametrize("upsampler", ["bilinear", "nearest", "learned", "subpixel"])
@pytest.mark.parametrize("queries", ["null", "40"])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_training_makes_no_dense_fine_tokens(
    upsampler: str, queries: str, missing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the default terms at 8→1; `context` and `reconstruct` make them at the width of their targets.

    Where an output patch has more numbers than a token (pure ps=8) dense tokens are the narrower ones.
    """
    widths, dense = [], FineTokens.dense

    def counted_dense(fine: FineTokens) -> Tensor:
        widths.append(fine.grid.tokens.shape[-1])
        return dense(fine)

    monkeypatch.setattr(FineTokens, "dense", counted_dense)
    module = module_for(8, 1, f"upsampler={upsampler}", f"loss.max_queries={queries}")
    module(make_batch(8, missing=missing), PatchSizes(8, 1))["loss"].backward()
    assert module.objective.context_targets is not None
    assert widths == list(module.objective.context_targets.widths().values())


@pytest.mark.sample(6)
@pytest.mark.parametrize("upsampler", ["bilinear", "nearest", "learned", "subpixel", "transposed"])
@pytest.mark.parametrize(("processing", "output"), SIZES)
def test_drawn_queries_train_every_parameter(processing: int, output: int, upsampler: str) -> None:
    module = module_for(
        processing, output, f"upsampler={upsampler}", "loss.max_queries=16", "loss.reconstruct.weight=0.5"
    )
    optimizer = torch.optim.AdamW(p for p in module.parameters() if p.requires_grad)
    for seed in range(2):
        optimizer.zero_grad()
        missing = 0.2 if output == 1 else 0.0  # larger patches would hardly be whole
        sizes, batch = PatchSizes(processing, output), make_batch(processing, missing=missing, seed=seed)
        terms = module(remade(batch, query_sampling=query_sampling_for(sizes.factor**2, seed)), sizes)
        assert all(torch.isfinite(term) for term in terms.values())
        terms["loss"].backward()
        optimizer.step()
    assert [n for n, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())] == []

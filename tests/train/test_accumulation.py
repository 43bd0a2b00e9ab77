"""A step in parts gives the gradients of a step as a whole."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from building import MODALITIES, make_batch, query_sampling_for, remade, small, some_samples
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.cost.predict import predict
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.packing import Packing
from hybrid_patch.train.step import TrainingModule, TrainingStep

SIZES = PatchSizes(8, 1)
OPTIONS = [
    ("upsampler=guided", "loss.reconstruct.weight=0.5"),
    ("upsampler=subpixel", "loss.max_queries=20"),
    ("upsampler=guided", "loss.max_queries=20"),
    ("decoder.patch_size=output", "loss.target_patch_size=processing"),
    ("loss.instance.weight=0", "upsampler=learned"),
    ("loss.instance.layers=2", "loss.instance.project=before_pooling", "loss.decoded.weight=0"),
]
Gradients = tuple[dict[str, Tensor], dict[str, Tensor]]


def module_for(options: tuple[str, ...]) -> TrainingModule:
    torch.manual_seed(0)
    module = TrainingModule(small("patch=hybrid", *options), MODALITIES)
    for parameter in module.model.encoder_upsampler.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def uneven() -> Batch:
    """Samples that differ in what is missing, the last without anything to decode in one modality."""
    return remade(make_batch(8, missing=0.3, samples=4), query_sampling=query_sampling_for(64, 0, most=20))


def gradients(options: tuple[str, ...], parts: int) -> Gradients:
    module = module_for(options)
    terms = TrainingStep(module, optimizer_for(module), 1.0, parts).backpropagate(uneven(), SIZES)
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}, terms


def optimizer_for(module: TrainingModule) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters())


def assert_same(actual: Gradients, expected: Gradients) -> None:
    assert actual[0].keys() == expected[0].keys()
    for which in (0, 1):
        for name, value in expected[which].items():
            message = f"{name}: {{}}".format
            torch.testing.assert_close(actual[which][name], value, rtol=1e-4, atol=1e-6, msg=message)


@pytest.mark.sample(3)
@pytest.mark.parametrize(("options", "parts"), [(OPTIONS[0], 2), *((options, 4) for options in OPTIONS)])
def test_gradients_and_terms_are_those_of_the_whole(options: tuple[str, ...], parts: int) -> None:
    assert_same(gradients(options, parts), gradients(options, 1))


class DistributedStep(TrainingStep):
    """The step by torch's own DDP."""

    def __init__(self, module: TrainingModule) -> None:
        super().__init__(module, optimizer_for(module), 1.0, 2)
        self.wrapped = DistributedDataParallel(module)

    def forward(self, *inputs: object) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.wrapped(*inputs)
        return terms

    def gradients_unsynced(self, enabled: bool) -> AbstractContextManager[object]:
        return self.wrapped.no_sync() if enabled else nullcontext()


def _process(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    batch = uneven()
    local = remade(some_samples(batch, slice(rank * 2, rank * 2 + 2)), query_sampling=batch.query_sampling)
    module = module_for(OPTIONS[1])
    terms = DistributedStep(module).backpropagate(local, SIZES)
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    torch.save((gradients, terms), Path(folder) / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.full
def test_two_processes_in_two_parts_each(tmp_path: Path) -> None:
    spawn(_process, (2, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert_same(
        (first[0], {name: (value + second[1][name]) / 2 for name, value in first[1].items()}), gradients(OPTIONS[1], 1)
    )


def indices(cells: Packing) -> list[list[int]]:
    return [row[valid].tolist() for row, valid in zip(cells.index, cells.valid(), strict=True)]


def test_batches_are_split_with_all_that_is_of_a_sample() -> None:
    batch = make_batch(8, missing=0.3, samples=4)
    parts = batch.split(2)
    for number, part in enumerate(parts):
        expected = some_samples(batch, slice(2 * number, 2 * number + 2))
        assert torch.equal(part.timestamps, expected.timestamps)
        for name, cells in part.decoded.each.items():
            assert indices(cells) == indices(expected.decoded.each[name])
            assert torch.equal(part.pixels[name], expected.pixels[name])
    with pytest.raises(ValueError, match="cannot be split into 3 parts"):
        batch.split(3)


@pytest.mark.slow
def test_parts_take_less_memory_and_the_encoder_once_more() -> None:
    whole, parts = (
        predict(small("patch=hybrid", "trainer.batch_size=8", f"runtime.accumulate={parts}")) for parts in (1, 4)
    )
    assert parts.memory()["activations"] < 0.5 * whole.memory()["activations"]
    forward = [each.flops()["forward"] for each in (whole, parts)]
    assert forward[1]["encoder"] == 2 * forward[0]["encoder"]
    assert forward[1]["decoder"] == forward[0]["decoder"]

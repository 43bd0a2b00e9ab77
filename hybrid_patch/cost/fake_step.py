"""A training step of a config on fake tensors, which have shapes but no numbers."""

import dataclasses
import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes, tile_for
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.recorder import Record, Recorder
from hybrid_patch.cost.step import training_step, untaught
from hybrid_patch.cost.torch_internals import FakeTensorMode
from hybrid_patch.data.batch import Batch, MaskedTokens, QuerySampling, by_role
from hybrid_patch.data.masking import Mask, coarse_presence, draw_masks, widest_sample
from hybrid_patch.data.packing import Packing
from hybrid_patch.model.encodings import ground_encoding, series_encoding
from hybrid_patch.model.hybrid import released_encoder
from hybrid_patch.model.interpolation import interpolation_weights, neighbouring_cells
from hybrid_patch.model.patch_embed import kernel_resize
from hybrid_patch.train.step import TrainingModule, TrainingStep

DRAWS_PAIRS = ("modality_cross_random", "random_time_with_decode")
"""Maskings whose samples differ in how many tokens they have, even without missing data."""
_CACHED = (interpolation_weights, neighbouring_cells, ground_encoding, series_encoding, kernel_resize)
"""Functions that cache tensors."""


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Every tensor created inside is fake, and none is left in a cache for real steps.

    `trunc_normal_` does nothing, since it reads its numbers to redraw some of them. Garbage is not collected meanwhile:
    each collection would traverse all of torch's objects.
    """
    for function in _CACHED:
        function.cache_clear()
    collected = gc.isenabled()
    gc.disable()
    try:
        with FakeTensorMode(), mock.patch.object(torch.nn.init, "trunc_normal_"):
            yield
    finally:
        if collected:
            gc.enable()
        for function in _CACHED:
            function.cache_clear()


class Tokens(NamedTuple):
    """Tokens of one sample in one view: visible to the encoder, predicted by the decoder, all at output patch size."""

    encoder: int
    decoder: int
    fine: int


class FakeSteps(NamedTuple):
    """The costs of steps of one config, what a sample's tokens are, and trainable parameters by module."""

    records: list[Record]
    tokens: Tokens
    parameters: dict[str, int]


def fake_steps(
    config: Config, modalities: Mapping[str, Modality], sizes: PatchSizes, samples: Sequence[int]
) -> FakeSteps:
    """Steps of a config in the middle of training, one for each number of samples; only the first has the optimizer's.

    A head predicts a number, since the classes are not known: a few more numbers per pixel are little of the whole.
    The code is that of a real step on a CPU; a GPU's kernels may allocate differently. Blocks are not compiled, and a
    `loss.backend` that needs a GPU is replaced by the CPU's kernel, of the same shapes.
    """
    config = _for_cpu(config)
    sample = one_sample(config, modalities, sizes)
    if config.model.architecture != "flexivit":
        released_encoder(config.model.architecture)  # imports its package, whose tensors must be real
    with fake_tensors():
        module = TrainingModule(config, modalities)
        step = training_step(config, module)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        step.optimizer.step()  # creates its state
        step.optimizer.zero_grad()
        batches = [_repeated(sample, number) for number in samples]
        with torch.no_grad():
            TrainingModule(_shallow(config), modalities)(batches[0], sizes)  # fills the caches
        records = [_record(step, batch, sizes, number == 0) for number, batch in enumerate(batches)]
    visible, predicted = (tokens.together.index.shape[1] for tokens in (sample.encoded, sample.decoded))
    tokens = Tokens(visible, predicted, sample.decoded.together.length * sizes.factor**2)
    return FakeSteps(records, tokens, module.parameter_counts())


def _record(step: TrainingStep, batch: Batch, sizes: PatchSizes, with_optimizer: bool) -> Record:
    """The cost of a step; without the optimizer it ends with the backward pass."""
    recorder, module, optimizer = Recorder(), step.module, step.optimizer
    for tensor in (*module.parameters(), *module.buffers()):
        recorder.hold(tensor, "parameters")
    for state in optimizer.state.values():
        for tensor in state.values():
            recorder.hold(tensor, "optimizer")
    batch.map(lambda x: recorder.hold(x, "activations"))

    def accumulated(parameter: Tensor) -> None:
        assert parameter.grad is not None
        recorder.hold(parameter.grad, "gradients")

    hooks = [p.register_post_accumulate_grad_hook(accumulated) for p in module.parameters() if p.requires_grad]
    step.phase = recorder.phase
    if with_optimizer:
        step.run(batch, sizes)
    else:
        step.backpropagate(batch, sizes)
    for hook in hooks:
        hook.remove()
    record = recorder.record()
    optimizer.zero_grad()
    return record


def one_sample(config: Config, modalities: Mapping[str, Modality], sizes: PatchSizes) -> Batch:
    """A batch of one sample without missing pixels, masked at the ratios of the config.

    Where samples draw which (modality, band set) pairs are encoded and decoded, a batch is as wide as its widest
    sample, and all others are padded.
    """
    masking, tile = config.masking, tile_for(config, sizes)
    pixels, valid, presence = {}, {}, {}
    for name, modality in modalities.items():
        shape = (1, tile, tile, config.data.timesteps if modality.temporal else 1)
        pixels[name], valid[name] = torch.zeros(*shape, modality.channels), torch.ones(shape, dtype=torch.bool)
        presence[name] = coarse_presence(valid[name].numpy(), sizes.processing, len(modality.band_sets))
    view = draw_masks(masking, modalities, presence, np.random.default_rng(0))
    masks = {name: torch.from_numpy(mask).repeat(masking.views, 1, 1, 1, 1) for name, mask in view.items()}
    inputs = [name for name, modality in modalities.items() if not modality.decode_only]
    guide_mask = {}
    if config.upsampler.pixel_dropout is not None:
        guide_mask = {name: valid[name].repeat(masking.views, 1, 1, 1) for name in inputs}
    timestamps = torch.zeros(1, config.data.timesteps, 3, dtype=torch.long)
    subpixels, strata = torch.zeros(sizes.factor**2, dtype=torch.long), torch.zeros(config.loss.max_queries or 0)
    encoded, decoded = by_role(masks, inputs)
    if masking.name in DRAWS_PAIRS:
        grids = {name: (h, w, t, s) for name, (_, h, w, t, s) in ((n, mask.shape) for n, mask in masks.items())}
        encoded, decoded = (
            _widest(widest_sample(masking, modalities, grids, value), tokens)
            for value, tokens in ((Mask.ENCODE, encoded), (Mask.DECODE, decoded))
        )
    stacks = {"encoder": config.model.encoder, "decoder": config.model.decoder}
    batch = Batch(
        pixels,
        valid,
        timestamps,
        masks,
        encoded,
        decoded,
        QuerySampling(subpixels, strata),
        guide_mask,
        band_mask={name: torch.ones(1, modalities[name].channels, dtype=torch.bool) for name in masking.band_dropout},
        path_mask={
            name: torch.ones(masking.views, size.depth, 2, dtype=torch.bool)
            for name, size in stacks.items()
            if size.drop_path
        },
    )
    labels = torch.zeros(1, tile, tile) if config.target.name == "labels" else None
    return dataclasses.replace(batch, taught=untaught(config, modalities, 1), labels=labels)


def _widest(numbers: tuple[int, dict[str, int]], tokens: MaskedTokens) -> MaskedTokens:
    """As many tokens, with padding masks, on the same grids."""

    def pad(packing: Packing, number: int) -> Packing:
        index = packing.index.new_zeros(len(packing.index), max(number, 1))
        return Packing(index, torch.ones_like(index, dtype=torch.bool), packing.length)

    together, each = numbers
    return MaskedTokens(pad(tokens.together, together), {n: pad(x, each[n]) for n, x in tokens.each.items()})


def _repeated(sample: Batch, samples: int) -> Batch:
    """A batch of as many such samples, which share the query sampling."""
    sampling = sample.query_sampling

    def repeat(x: Tensor) -> Tensor:
        times = 1 if x is sampling.subpixels or x is sampling.strata else samples
        return torch.zeros(times * len(x), *x.shape[1:], dtype=x.dtype)

    return sample.map(repeat)


def _for_cpu(config: Config) -> Config:
    backend = "auto" if config.loss.backend in ("efficient_cuda", "flex") else config.loss.backend
    return dataclasses.replace(
        config,
        runtime=dataclasses.replace(config.runtime, compile_blocks=False),
        loss=dataclasses.replace(config.loss, backend=backend),
    )


def _shallow(config: Config) -> Config:
    """The same widths, with one block of each kind."""
    model = config.model
    encoder, decoder = (dataclasses.replace(part, depth=1) for part in (model.encoder, model.decoder))
    return dataclasses.replace(config, model=dataclasses.replace(model, encoder=encoder, decoder=decoder))

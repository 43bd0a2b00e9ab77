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
from hybrid_patch.cost.torch_internals import FakeTensorMode
from hybrid_patch.data.batch import Batch, MaskedTokens, QuerySampling
from hybrid_patch.data.masking import Mask, coarse_presence, draw_masks
from hybrid_patch.data.packing import Packing
from hybrid_patch.loss.term import MicrobatchContext
from hybrid_patch.model.encodings import ground_encoding, series_encoding
from hybrid_patch.model.interpolation import bilinear_weights, neighbouring_cells
from hybrid_patch.model.patch_embed import kernel_resize
from hybrid_patch.train.optimizer import build_optimizer
from hybrid_patch.train.step import TrainingModule, TrainingStep

_CACHED = (bilinear_weights, neighbouring_cells, ground_encoding, series_encoding, kernel_resize)
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
    """Tokens of one sample in one view, all modalities, timesteps and band sets together.

    Attributes:
        encoder: tokens visible to the encoder.
        decoder: tokens that the decoder predicts.
        fine: all tokens at the output patch size.
    """

    encoder: int
    decoder: int
    fine: int


class FakeSteps(NamedTuple):
    """Steps of one config, and the size of what they work on.

    Attributes:
        records: the cost of each step.
        tokens: of a sample.
        parameters: trainable parameters by module (`TrainingModule.parameter_counts`).
    """

    records: list[Record]
    tokens: Tokens
    parameters: dict[str, int]


def fake_steps(
    config: Config, modalities: Mapping[str, Modality], sizes: PatchSizes, samples: Sequence[int]
) -> FakeSteps:
    """Steps of a config at some patch sizes, one for each number of samples, in the middle of training.

    Only the first includes the optimizer, whose part is the same for any number of samples.

    The code is that of a real step on a CPU; a GPU's kernels may allocate differently. Blocks are not compiled, and a
    `loss.backend` that needs a GPU is replaced by the CPU's kernel, of the same shapes.
    """
    config = _for_cpu(config)
    masks = masks_of(config, modalities, sizes)
    inputs = {name: mask for name, mask in masks.items() if not modalities[name].decode_only}
    encoded, decoded = MaskedTokens.of(inputs, Mask.ENCODE), MaskedTokens.of(masks, Mask.DECODE)
    coarse = sum(mask.numel() for mask in masks.values())
    visible, predicted = (tokens.together.index.shape[1] for tokens in (encoded, decoded))
    with fake_tensors():
        module = TrainingModule(config, modalities)
        optimizer = build_optimizer(module, config.optimizer)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # creates its state
        optimizer.zero_grad()
        batches = [_batch(config, modalities, sizes, encoded, decoded, number) for number in samples]
        with torch.no_grad():
            TrainingModule(_shallow(config), modalities)(batches[0], sizes)  # fills the caches
        records = [
            _RecordedStep(config, module, optimizer).record(batch, sizes, with_optimizer=number == 0)
            for number, batch in enumerate(batches)
        ]
    return FakeSteps(records, Tokens(visible, predicted, coarse * sizes.factor**2), module.parameter_counts())


class _RecordedStep(TrainingStep):
    """One step of a config, recorded phase by phase."""

    def __init__(self, config: Config, module: TrainingModule, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(module, optimizer, config.optimizer.clip_norm, config.runtime.accumulate)
        self.recorder = Recorder()

    def record(self, batch: Batch, sizes: PatchSizes, with_optimizer: bool) -> Record:
        """The cost of a step; without the optimizer it ends with the backward pass."""
        recorder, module = self.recorder, self.module
        recorder.hold([*module.parameters(), *module.buffers()], "parameters")
        recorder.hold([x for state in self.optimizer.state.values() for x in state.values()], "optimizer")
        batch.map(lambda x: recorder.held(x, "activations"))

        def accumulated(parameter: Tensor) -> None:
            assert parameter.grad is not None
            recorder.hold([parameter.grad], "gradients")

        hooks = [p.register_post_accumulate_grad_hook(accumulated) for p in module.parameters() if p.requires_grad]
        if with_optimizer:
            self.run(batch, sizes)
        else:
            self.backpropagate(batch, sizes)
        for hook in hooks:
            hook.remove()
        record = recorder.record()
        self.optimizer.zero_grad()
        return record

    def forward(self, *inputs: object) -> dict[str, Tensor]:
        """The forward pass."""
        with self.recorder.phase("forward"):
            return super().forward(*inputs)

    def contexts(self, batch: Batch, parts: Sequence[Batch], sizes: PatchSizes) -> list[MicrobatchContext]:
        """The encoder's pass over all microbatches, which belongs to the forward pass."""
        with self.recorder.phase("forward"):
            return super().contexts(batch, parts, sizes)

    def backward(self, loss: Tensor) -> None:
        """The backward pass."""
        with self.recorder.phase("backward"):
            super().backward(loss)

    def clip_gradients(self) -> Tensor:
        """Part of the optimizer's phase."""
        with self.recorder.phase("optimizer"):
            return super().clip_gradients()

    def step_optimizer(self) -> None:
        """The optimizer's phase."""
        with self.recorder.phase("optimizer"):
            super().step_optimizer()


def masks_of(config: Config, modalities: Mapping[str, Modality], sizes: PatchSizes) -> dict[str, Tensor]:
    """Masks of one sample without missing pixels, `[1, h, w, T, S]`, at the ratios of the config.

    `modality_cross_random` drops some of the tokens. A batch is as wide as its widest sample, so none are dropped here.
    """
    tile = tile_for(config, sizes)
    presence = {}
    for name, modality in modalities.items():
        shape = (1, tile, tile, config.data.timesteps if modality.temporal else 1)
        presence[name] = coarse_presence(np.ones(shape, bool), sizes.processing, len(modality.band_sets))
    masking = config.masking
    if masking.name == "modality_cross_random":
        masking = dataclasses.replace(masking, name="random")
    masks = draw_masks(masking, modalities, presence, np.random.default_rng(0))
    return {name: torch.from_numpy(mask) for name, mask in masks.items()}


def _batch(
    config: Config,
    modalities: Mapping[str, Modality],
    sizes: PatchSizes,
    encoded: MaskedTokens,
    decoded: MaskedTokens,
    samples: int,
) -> Batch:
    """A fake batch without missing pixels, whose samples have as many tokens as the given one."""
    rows, tile = samples * config.masking.views, tile_for(config, sizes)
    side = tile // sizes.processing
    padded = config.masking.name == "modality_cross_random"

    def repeat(packing: Packing) -> Packing:
        shape = (rows, packing.index.shape[1])
        padding_mask = torch.ones(shape, dtype=torch.bool) if padded or packing.padding_mask is not None else None
        return Packing(torch.zeros(shape, dtype=torch.long), padding_mask, packing.length)

    def repeat_all(tokens: MaskedTokens) -> MaskedTokens:
        return MaskedTokens(repeat(tokens.together), {name: repeat(each) for name, each in tokens.each.items()})

    pixels, valid, masks = {}, {}, {}
    for name, modality in modalities.items():
        steps = config.data.timesteps if modality.temporal else 1
        pixels[name] = torch.zeros(samples, tile, tile, steps, modality.channels)
        valid[name] = torch.ones(samples, tile, tile, steps, dtype=torch.bool)
        masks[name] = torch.zeros(rows, side, side, steps, len(modality.band_sets), dtype=torch.int8)
    timestamps = torch.zeros(samples, config.data.timesteps, 3, dtype=torch.long)
    subpixels, strata = torch.zeros(sizes.factor**2, dtype=torch.long), torch.zeros(config.loss.max_queries or 0)
    guide_mask = {}
    if config.upsampler.pixel_dropout is not None:
        for name, x in valid.items():
            if not modalities[name].decode_only:
                guide_mask[name] = torch.ones(rows, *x.shape[1:], dtype=torch.bool)
    tokens = repeat_all(encoded), repeat_all(decoded)
    return Batch(pixels, valid, timestamps, masks, *tokens, QuerySampling(subpixels, strata), guide_mask)


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

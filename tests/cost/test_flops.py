"""FLOPs of every part are those worked out by hand from the config: two for each multiply-add of a matrix product."""

import dataclasses
import math
from typing import Literal

import pytest
import torch
from building import MODALITIES, make_batch, query_sampling_for, remade, small
from torch.utils.flop_counter import FlopCounterMode

from hybrid_patch.config.curriculum import PatchSizes, all_sizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config, Transformer
from hybrid_patch.cost.fake_step import fake_steps
from hybrid_patch.model.profiling import PARTS
from hybrid_patch.train.step import Phase, TrainingModule

Role = Literal["encode", "decode"]
SAMPLES, VIEWS = 3, 2
ROWS = SAMPLES * VIEWS
PAIRS: dict[Role, dict[str, int]] = {
    "encode": {"optical": 2 * 4, "height": 2},
    "decode": {"optical": 4, "height": 2, "cover": 4},
}
"""The most tokens of `random_time_with_decode` on tiles of 2 × 2 patches, of which half a band set's are drawn."""


class Hand:
    """Forward and backward FLOPs by part, added up product by product.

    A product of two matrices that both learn has two products of the same size in the backward pass, with one that
    does not it has one, with none of them nothing. Attention is two products forward, and five backward: its scores
    are worked out again.
    """

    def __init__(self, config: Config, sizes: PatchSizes, modalities: dict[str, Modality] = MODALITIES) -> None:
        self.config, self.sizes, self.modalities = config, sizes, modalities
        self.forward = dict.fromkeys(PARTS, 0)
        self.backward = dict.fromkeys(PARTS, 0)
        self.side = config.data.tile // sizes.processing
        self.subpixels = sizes.factor**2
        self.neighbours = 9 if sizes.factor > 1 and config.upsampler.name != "nearest" else 1
        self.dense = sizes.factor > 1 and config.upsampler.name == "transposed"
        averaged = config.loss.target_patch_size == 1 and sizes.output > 1
        self.target_size, self.averaged = (1, sizes.output**2) if averaged else (sizes.output, 1)
        self.width = config.model.encoder.width
        self.guided = ""  # the modality whose tokens are upsampled, guided
        self._embedding()
        visible = sum(self._count(name, "encode") for name, m in modalities.items() if not m.decode_only)
        asked = sum(self._count(name, "decode") for name in modalities)
        if config.masking.name == "random_time_with_decode":
            visible, asked = 2 * 4, 4 + 4  # two of three pairs, both of a series; one of a series, and the map
        self._blocks("encoder", config.model.encoder, visible, None)
        self._product("decoder", ROWS * visible, self.width, config.model.decoder.width, learning=2)  # the context
        self._blocks("decoder", config.model.decoder, asked, visible)
        for name, modality in modalities.items():
            if not modality.decode_only:
                self._encoder_terms(name)
            self._decoder_terms(name)
        self._product("loss", ROWS, self.width, self.width, learning=2)  # the map of the pooled vectors
        self._product("loss", 2 * SAMPLES, self.width, SAMPLES, learning=2)  # either view with the other

    def _product(self, part: str, n: int, k: int, m: int, learning: int) -> None:
        """`[n, k] @ [k, m]`, of which so many learn."""
        self.forward[part] += 2 * n * k * m
        self.backward[part] += learning * 2 * n * k * m

    def _timesteps(self, name: str) -> int:
        return self.config.data.timesteps if self.modalities[name].temporal else 1

    def _grid(self, name: str) -> int:
        """Coarse tokens of a sample."""
        return self.side**2 * self._timesteps(name) * len(self.modalities[name].band_sets)

    def _count(self, name: str, role: Role) -> int:
        """Tokens of a sample that are encoded or decoded; where samples differ, at most."""
        if self.config.masking.name == "random_time_with_decode":
            return PAIRS[role][name]
        masking = self.config.masking
        return round((masking.encode_ratio if role == "encode" else masking.decode_ratio) * self._grid(name))

    def _embedding(self) -> None:
        size = self.sizes.processing
        base = self.config.model.base_patch_size or size
        for name, modality in self.modalities.items():
            if modality.kind == "continuous":  # its bands whitened
                pixels, channels = self.config.data.tile**2 * self._timesteps(name), modality.channels
                self._product("embedding", SAMPLES * pixels, channels, channels, learning=0)
                if name in self.config.masking.band_dropout:  # once more, without the bands that are dropped
                    self._product("embedding", SAMPLES * pixels, channels, channels, learning=0)
            if modality.decode_only:
                continue
            for channels in map(len, modality.band_sets):
                patches = SAMPLES * self.side**2 * self._timesteps(name)
                hidden = self.config.model.pixel_hidden_width
                if hidden is not None:
                    self._product("embedding", patches * size**2, channels, hidden, learning=1)
                kernel = hidden or channels
                self._product("embedding", patches, size**2 * kernel, self.width, learning=2 if hidden else 1)
                self._product("embedding", patches, 2 * channels, self.width, learning=1)  # its statistics
                if size != base:  # the kernel resized
                    self._product("embedding", size**2, base**2, kernel * self.width, learning=1)

    def _blocks(self, part: str, size: Transformer, tokens: int, context: int | None) -> None:
        width, hidden, keys = size.width, int(size.width * size.mlp_ratio), context or tokens
        for _ in range(size.depth):
            self._product(part, ROWS * tokens, width, width, learning=2)  # queries
            self._product(part, ROWS * keys, width, 2 * width, learning=2)  # keys and values
            self.forward[part] += 2 * 2 * ROWS * tokens * keys * width
            self.backward[part] += 5 * 2 * ROWS * tokens * keys * width
            self._product(part, ROWS * tokens, width, width, learning=2)  # out
            self._product(part, ROWS * tokens, width, hidden, learning=2)
            if self.config.runtime.gradient_checkpointing:  # all but the last product, whose output nothing needs
                linear = 2 * width * (ROWS * tokens * (2 * width + hidden) + ROWS * keys * 2 * width)
                self.backward[part] += linear + 2 * 2 * ROWS * tokens * keys * width
            self._product(part, ROWS * tokens, hidden, width, learning=2)

    def _drawn(self, name: str, role: Role) -> tuple[int, int]:
        """Cells and subpixels that a loss asks about."""
        cells, most = self._count(name, role), self.config.loss.max_queries
        if most is None or cells * self.subpixels <= most:
            return cells, self.subpixels
        return min(cells, most), min(max(most // cells, 1), self.subpixels)

    def _encoder_terms(self, name: str) -> None:
        cells, subpixels = self._drawn(name, "encode")
        everywhere = self._count(name, "encode")
        self.guided = name if self.config.upsampler.name == "guided" and self.subpixels > 1 else ""
        self._upsampler(name, cells, subpixels, self.width)
        self._discrimination(name, cells, subpixels, everywhere, self.width)
        self._context(name, cells, subpixels)
        if self.dense:
            return
        # Pooled: how much of each coarse token, their weighted sum, and that of the detail where it is asked for.
        if self.subpixels > 1:
            self._product("upsampler", ROWS * everywhere * self.neighbours, self.subpixels, 1, learning=0)
        self._product("upsampler", ROWS, self._grid(name), self.width, learning=1)
        if self._rank:
            self._product("upsampler", ROWS, self._rank, self.width, learning=2)
        self.guided = ""

    def _decoder_terms(self, name: str) -> None:
        width = self.config.model.decoder.width
        cells, subpixels = self._drawn(name, "decode")
        self._upsampler(name, cells, subpixels, width)
        self._discrimination(name, cells, subpixels, self._count(name, "decode"), width)
        if self.config.loss.reconstruct.weight:
            pixels = self.modalities[name].channels * self.target_size**2
            self._head(name, cells * subpixels, width, pixels)
            self._dense(cells, subpixels, pixels)

    @property
    def _rank(self) -> int:
        """Numbers of the detail: of a factor of 8, the exit of the last stage alone."""
        match self.config.upsampler:
            case {"name": "subpixel", "rank": rank} if self.sizes.factor > 1:
                return rank
            case {"name": "learned"} if self.sizes.factor > 1:
                return self._learned_widths()[-1]
            case {"name": "guided", "rank": rank, "random_features": random} if self.guided:
                return rank + 2 * self.modalities[self.guided].channels + random
        return 0

    @property
    def _looked_at(self) -> int:
        """Numbers of a place that guides: its bands, and whether each band set was seen."""
        modality = self.modalities[self.guided]
        return modality.channels + len(modality.band_sets)

    def _learned_widths(self) -> list[int]:
        return [max(self.config.upsampler["width"] >> stage, 8) for stage in range(int(math.log2(self.sizes.factor)))]

    def _upsampler(self, name: str, cells: int, subpixels: int, width: int) -> None:
        """The upsampler itself: a detail for each place asked for, or in stages, for all subpixels of a cell.

        Guided, it looks at all subpixels of all images, or at some, where what is around these is less.
        """
        if self.guided:
            rank, random = self.config.upsampler["rank"], self.config.upsampler["random_features"]
            convolved = subpixels if 9 * subpixels < self.subpixels else self.subpixels
            images = ROWS * self._timesteps(name) * self.side**2 * convolved
            self._product("upsampler", images, 9 * self._looked_at, rank, learning=1)
            self._deviations(name)
            self._product("upsampler", ROWS * self._grid(name), width, rank + random, learning=2)  # context and gates
            self._product("upsampler", ROWS * cells * subpixels, self.neighbours, rank + random, learning=1)
            self._product("upsampler", ROWS * cells * subpixels, rank, rank, learning=2)
            self._product("upsampler", ROWS * cells * subpixels, self.modalities[name].channels, random, learning=0)
        if self.config.upsampler.name == "subpixel" and self._rank:
            self._product("upsampler", ROWS * cells, width, subpixels * self._rank, learning=2)
        if self.dense:  # all of what a stage reaches, or what is asked for alone
            for depth in range(int(math.log2(self.sizes.factor))):
                self._product("upsampler", ROWS * cells * min(4 ** (depth + 1), subpixels), width, width, learning=2)
        if self.config.upsampler.name == "learned" and self._rank:
            inputs = width
            for stage, outputs in enumerate(self._learned_widths()):
                self._product("upsampler", ROWS * cells * 4**stage, inputs, 4 * outputs, learning=2)
                inputs = outputs

    def _deviations(self, name: str) -> None:
        """The visible pixels around each, their sums and those of their squares, by rows and by columns."""
        modality, tile = self.modalities[name], self.config.data.tile
        masks = 1 if len(modality.band_sets) == 1 else modality.channels
        rows = ROWS * self._timesteps(name) * (masks + 2 * modality.channels) * 2 * tile
        self._product("upsampler", rows, tile, tile, learning=0)

    def _head(self, name: str, fine: int, inputs: int, outputs: int) -> None:
        """A linear map of all coarse tokens, and of the basis; or of dense fine tokens."""
        self._product("loss", ROWS * (fine if self.dense else self._grid(name)), inputs, outputs, learning=2)
        self._product("loss", self._rank, inputs, outputs, learning=2)

    def _dense(self, cells: int, subpixels: int, width: int) -> None:
        fine = ROWS * cells * subpixels
        if not self.dense:
            self._product("upsampler", fine, self.neighbours, width, learning=1)
            self._product("upsampler", fine, self._rank, width, learning=2)

    def _discrimination(self, name: str, cells: int, subpixels: int, all_cells: int, inputs: int) -> None:
        """Patch discrimination of queries in `cells` × `subpixels` against all targets."""
        modality, width, rank, neighbours = self.modalities[name], self.width, self._rank, self.neighbours
        fine, targets = ROWS * cells * subpixels, ROWS * all_cells * self.subpixels
        columns = modality.channels * self.target_size**2 + len(modality.band_sets)
        self._head(name, cells * subpixels, inputs, width)
        if not self.dense:
            # The norm of the predictions: products of the tokens around a cell, and of those with the basis.
            self._product("upsampler", ROWS * cells * neighbours, width, neighbours, learning=2)
            self._product("upsampler", fine, neighbours, neighbours, learning=1)
            self._product("upsampler", ROWS * cells * neighbours, width, rank, learning=2)
            self._product("upsampler", fine, neighbours, rank, learning=1)
            self._product("upsampler", rank, width, rank, learning=2)
            self._product("upsampler", fine, rank, rank, learning=2)
        if columns > width:  # targets as wide as tokens are
            self._product("loss", targets, columns, width, learning=0)
            self._dense(cells, subpixels, width)
            columns = width
        else:
            self._product("loss", columns, width, columns, learning=0)  # the root of their norm
            # The norms of targets: of each pixel's, and of their means.
            norms = 1 if self.averaged == 1 else self.averaged + 1
            self._product("loss", targets * norms, columns, columns, learning=0)
            self._product("loss", targets, self.averaged if norms > 1 else 0, columns, learning=0)
            if self.dense:
                self._product("upsampler", fine, width, columns, learning=1)
            else:
                self._product("upsampler", ROWS * cells * neighbours, width, columns, learning=1)
                self._product("upsampler", fine, neighbours, columns, learning=1)
                self._product("upsampler", rank, width, columns, learning=1)
                self._product("upsampler", fine, rank, columns, learning=2)
        keys = all_cells * self.subpixels
        if modality.kind == "categorical" and self.averaged == 1:  # a key for each distinct target, one for the others
            keys = min(keys, modality.channels ** (self.sizes.output**2) + 1)
        padded = 8 * math.ceil((columns + 1) / 8)  # the bias is one more column
        self.forward["loss"] += 2 * 2 * fine * keys * padded

    def _context(self, name: str, cells: int, subpixels: int) -> None:
        """Statistics of all pixels, targets of the keys' subpixels, and queries among these."""
        bands, tile, loss = self.modalities[name].channels, self.config.data.tile, self.config.loss
        numbers, grid = 5 * bands, self.side**2
        # Windows of 4 sizes: the valid pixels, their sums and those of their squares, by rows and by columns.
        self._product("loss", 4 * SAMPLES * (1 + 2 * bands) * 2 * tile, tile, tile, learning=0)
        if self._timesteps(name) > 1:
            numbers += 4 * bands
            self._product("loss", 2 * SAMPLES * tile**2 * bands, self._timesteps(name), 1, learning=0)  # harmonics
        width = min(numbers, 48)
        per_cell = min(max(loss.context.max_keys // (SAMPLES * grid), 1), self.subpixels)
        keys, subpixels_asked = SAMPLES * grid * per_cell, min(per_cell, subpixels)
        self._product("loss", keys * self.averaged, numbers, width, learning=0)
        self._head(name, cells * subpixels, self.width, width)
        self._dense(cells, subpixels, width)
        if loss.max_queries is not None:
            cells = min(cells, max(min(loss.context.max_queries // subpixels_asked, loss.max_queries), 1))
        padded = 8 * math.ceil((width + 1) / 8)
        self.forward["loss"] += 2 * 2 * ROWS * cells * subpixels_asked * keys * padded


CASES = {
    "ps8": ["patch=ps8"],
    "ps8, recomputed, targets of pixels": [
        "patch=ps8",
        "runtime.gradient_checkpointing=true",
        "loss.target_patch_size=1",
        "loss.reconstruct.weight=1",
    ],
    "ps1": ["patch=ps1"],
    "ps1 from a kernel of 8, drawn cells": ["patch=ps1", "model.base_patch_size=8", "loss.max_queries=16"],
    "hybrid, bfloat16": ["patch=hybrid", "runtime.precision=bf16-mixed"],
    "guided": ["patch=hybrid", "upsampler=guided"],
    "guided, 8 to 2, drop path": [
        "patch=hybrid_8to2",
        "upsampler=guided",
        "model.encoder.drop_path=0.1",
        "model.decoder.drop_path=0.2",
    ],
    "guided, few drawn, four dates": ["patch=hybrid", "upsampler=guided", "loss.max_queries=16", "data.timesteps=4"],
    "guided, drawn, one date": ["patch=hybrid", "upsampler=guided", "loss.max_queries=40", "data.timesteps=1"],
    "subpixel, reconstruct": ["patch=hybrid", "upsampler=subpixel", "loss.reconstruct.weight=1"],
    "subpixel, drawn": ["patch=hybrid", "upsampler=subpixel", "loss.max_queries=40"],
    "subpixel, 8 to 2, targets of pixels": ["patch=hybrid_8to2", "upsampler=subpixel", "loss.target_patch_size=1"],
    "learned, drawn": ["patch=hybrid", "upsampler=learned", "loss.max_queries=3"],
    "learned, 8 to 2": ["patch=hybrid_8to2", "upsampler=learned"],
    "nearest": ["patch=hybrid", "upsampler=nearest"],
    "transposed": ["patch=hybrid", "upsampler=transposed"],
    "transposed, drawn": ["patch=hybrid", "upsampler=transposed", "loss.max_queries=40"],
    "pixels in a hidden layer": ["patch=hybrid", "model.pixel_hidden_width=6", "model.base_patch_size=4"],
    "pairs drawn": ["patch=hybrid", "masking=random_time_with_decode", "masking.views=2"],
}


def recorded_flops(config: Config) -> dict[Phase, dict[str, int]]:
    return fake_steps(config, MODALITIES, all_sizes(config.curriculum)[0], [SAMPLES]).records[0].flops


@pytest.mark.sample(1)
@pytest.mark.parametrize("case", list(CASES))
def test_flops_are_those_by_hand(case: str) -> None:
    config = small(*CASES[case])
    hand = Hand(config, all_sizes(config.curriculum)[0])
    assert recorded_flops(config) == {"forward": hand.forward, "backward": hand.backward}


@pytest.mark.full
@pytest.mark.parametrize("case", ["hybrid, bfloat16", "learned, 8 to 2", "guided", "transposed", "ps1"])
def test_a_real_step_has_the_flops_of_the_fake_one(case: str) -> None:
    config = small(*CASES[case])
    (sizes,) = all_sizes(config.curriculum)
    sampling = query_sampling_for(sizes.factor**2, most=0)  # nothing is drawn
    module, batch = TrainingModule(config, MODALITIES), remade(make_batch(sizes.processing), query_sampling=sampling)
    module(batch, sizes)  # fills the caches
    with FlopCounterMode(display=False) as counter:
        module(batch, sizes)["loss"].backward()
    assert counter.get_total_flops() == sum(sum(parts.values()) for parts in recorded_flops(config).values())


@pytest.mark.full
def test_bands_are_whitened_once_more_where_some_are_dropped() -> None:
    config = small("patch=hybrid")  # whose modalities are others
    config = dataclasses.replace(config, masking=dataclasses.replace(config.masking, band_dropout={"optical": 0.2}))
    hand = Hand(config, all_sizes(config.curriculum)[0])
    assert recorded_flops(config) == {"forward": hand.forward, "backward": hand.backward}


@pytest.mark.full
def test_no_fake_tensor_is_left_behind() -> None:
    config = small("patch=hybrid", "model.base_patch_size=16")
    (sizes,) = all_sizes(config.curriculum)
    recorded_flops(config)
    loss = TrainingModule(config, MODALITIES)(make_batch(8), sizes)["loss"]
    assert type(loss) is torch.Tensor
    assert torch.isfinite(loss)

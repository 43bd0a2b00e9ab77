"""Whole tiles of a source, and the features of their pixels that classifiers learn from."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid_patch.config.modality import NORMALISED_MEAN, NORMALISED_STD, Modality
from hybrid_patch.data.crops import Crop, read_crop
from hybrid_patch.data.local_statistics import local_moments, mean_image
from hybrid_patch.data.source import UNLABELLED, BrokenSampleError, Source, Window, evenly
from hybrid_patch.embed.per_pixel import Pooling
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.evaluate.label_maps import block_majority, blocks, per_pixel
from hybrid_patch.model.band_whitening import BandWhitening
from hybrid_patch.model.hybrid import build_model
from hybrid_patch.model.random_features import RandomFeatures
from hybrid_patch.runs.stop_signal import Check, proceed

Array = np.ndarray
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Tile:
    """A whole sample; those of one `group` may share ground.

    Attributes:
        name: its path or name.
        valid_mask: where any input modality has data.
        labels: `[H, W]`, `UNLABELLED` where there is no label or no data; `[1, 1]` if the whole tile has one label;
            None if the source has none.
        numbers: `[H, W]`, NaN where there is none or no data; None if the source's labels are no numbers.
    """

    name: str
    group: int
    whole: Crop
    valid_mask: Bool[Array, "h w"]
    labels: Int[Array, "rows columns"] | None
    numbers: Float[Array, "h w"] | None = None

    @property
    def pooled(self) -> bool:
        """Whether the whole tile has one label."""
        return self.whole.label is not None

    def per_label(self, features: Float[Array, "h w n"]) -> Float[Array, "rows columns n"]:
        """Features in the shape of `labels`: of every pixel, or their mean over the pixels that have data."""
        return features[self.valid_mask].mean(0)[None, None] if self.pooled and self.valid_mask.any() else features

    def predict(
        self,
        predict: Callable[[Float[Array, "n d"]], Int[Array, " n"]],
        features: Float[Array, "h w d"],
        pixels: Int[Array, " n"] | slice = slice(None),
    ) -> Int[Array, "rows columns"]:
        """A map of predicted classes in the shape of `labels`; `UNLABELLED` where there is no data.

        With the numbers of `pixels`, these alone have a prediction.
        """
        mask = np.full((1, 1), self.valid_mask.any()) if self.pooled else self.valid_mask
        chosen = np.zeros(mask.shape, bool)
        chosen.reshape(-1)[pixels] = True
        classes = np.full(mask.shape, UNLABELLED, np.int64)
        if (mask := mask & chosen).any():
            classes[mask] = predict(self.per_label(features)[mask])
        return classes


WHITENED_TILES = 32
"""Training tiles that the bands of random features are whitened by."""

Features = Callable[[Tile], Float[Array, "h w n"]]
"""What a classifier gets to see of a tile: a vector for each pixel."""


def read_tiles(
    source: Source, split: str, max_tiles: int | None, timesteps: int, check: Check = proceed
) -> Iterator[Tile]:
    """At most `max_tiles` samples, spread over a split, at up to `timesteps` timesteps; broken ones are skipped."""
    indices = source.indices(split)
    if max_tiles is not None:
        indices = indices[evenly(len(indices), max_tiles)]
    inputs = [name for name, modality in source.modalities.items() if not modality.decode_only]
    for index in indices.tolist():
        check()
        try:
            height, width, length = source.shape(index)
            whole = read_crop(source, index, Window(0, 0, height, width), evenly(length, timesteps), timesteps)
        except BrokenSampleError as error:
            log.warning("left out of the evaluation: %s", error)
            continue
        valid_mask = whole.any_valid(inputs)
        labels = None if whole.labels is None else np.where(valid_mask, whole.labels, UNLABELLED)
        if whole.label is not None:
            labels = np.full((1, 1), whole.label if valid_mask.any() else UNLABELLED)
        numbers = None if whole.numbers is None else np.where(valid_mask, whole.numbers, np.nan)
        yield Tile(source.name(index), source.group(index), whole, valid_mask, labels, numbers)


def embedding_of(model: TrainedModel, pooling: Pooling, check: Check = proceed) -> Features:
    """A model's embedding, in half-overlapping windows of the training's tile side."""
    tiling = model.tiling(model.side // 2)
    return lambda tile: model.embed_whole(tile.whole, tiling, pooling, check)


def untrained(model: TrainedModel) -> TrainedModel:
    """The model with the weights that its training began with."""
    torch.manual_seed(model.config.seed)
    network = build_model(model.config, model.modalities)
    network.whitening = model.network.whitening  # fitted before the training began
    network = network.eval().to(model.device)
    return dataclasses.replace(model, network=network, step=0)


def raw_bands(inputs: list[str]) -> Features:
    """The normalised bands of all input modalities and timesteps, zeros where missing."""
    return lambda tile: np.concatenate(
        [tile.whole.pixels[name].reshape(*tile.valid_mask.shape, -1) for name in inputs], -1
    )


def band_whitening(source: Source, timesteps: int, check: Check = proceed) -> BandWhitening:
    """The whitening of the bands of some training tiles."""
    whitening = BandWhitening(source.modalities)
    whitening.fit(tile.whole for tile in read_tiles(source, "train", WHITENED_TILES, timesteps, check))
    return whitening


def random_features(
    modalities: Mapping[str, Modality], timesteps: int, count: int, whitening: BandWhitening
) -> Features:
    """`relu` features of each pixel's whitened bands, drawn once: what a wide untrained network knows of a pixel alone.

    A missing value is like the mean.
    """
    inputs = {name: modality for name, modality in modalities.items() if not modality.decode_only}
    bands = sum(modality.channels * (timesteps if modality.temporal else 1) for modality in inputs.values())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random = RandomFeatures(bands, count, 1)

    def standardised(whole: Crop, name: str) -> Float[Array, "h w n"]:
        pixels, valid = (torch.from_numpy(x[name]) for x in (whole.pixels, whole.valid))
        values = (whitening.pixels(name, pixels, valid).numpy() - NORMALISED_MEAN) / NORMALISED_STD
        return np.where(whole.valid[name][..., None], values, 0).reshape(*values.shape[:2], -1)

    return lambda tile: random(
        torch.from_numpy(np.concatenate([standardised(tile.whole, name) for name in inputs], -1))
    ).numpy()


def surroundings(inputs: list[str]) -> Features:
    """Five numbers for each band: the pixel, deviations of the windows of 5, 17 and 65 pixels, the mean of the last.

    Of several dates they are those of the mean over a pixel's valid dates. Pixels without data take no part.
    """

    def of_modality(pixels: Float[Array, "h w t c"], valid: Bool[Array, "h w t"]) -> Float[Tensor, "h w n"]:
        image, any_valid = mean_image(torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None])
        moments = [local_moments(image, any_valid, side) for side in (5, 17, 65)]
        return torch.cat([image, *(deviation for _, deviation in moments), moments[-1][0]], 1)[0].permute(1, 2, 0)

    return lambda tile: torch.cat(
        [of_modality(tile.whole.pixels[name], tile.whole.valid[name]) for name in inputs], -1
    ).numpy()


def patch_means(inputs: list[str], side: int) -> Features:
    """The raw bands averaged over patches of `side` × `side` pixels: a patch without any detail inside it."""
    raw = raw_bands(inputs)

    def means(tile: Tile) -> Float[Array, "h w n"]:
        total = blocks(raw(tile) * tile.valid_mask[..., None], side).sum(2)
        count = blocks(tile.valid_mask, side).sum(2)
        return per_pixel(total / np.maximum(count, 1).astype(np.float32)[..., None], side, tile.valid_mask.shape)

    return means


def majority(side: int) -> Features:
    """The most frequent class of each patch: the most that one prediction per patch can know."""

    def majorities(tile: Tile) -> Float[Array, "h w 1"]:
        assert tile.labels is not None
        return block_majority(tile.labels, side)[..., None].astype(np.float32)

    return majorities

"""Whole tiles of a source, and the features of their pixels that classifiers are given."""

import dataclasses
import logging
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from hybrid_patch.data.crops import Crop, read_crop
from hybrid_patch.data.source import UNLABELLED, BrokenSampleError, Source, Window
from hybrid_patch.embed.per_pixel import Pooling
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.model.hybrid import HybridModel

Array = np.ndarray
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Tile:
    """A whole sample.

    Attributes:
        name: its path or name.
        group: tiles of one group may share ground.
        whole: its pixels.
        seen: `[H, W]` where any input modality was measured.
        labels: `[H, W]`, `UNLABELLED` where there is none or nothing was measured; `[1, 1]` if the whole tile has one
            label; None if the source has none.
    """

    name: str
    group: int
    whole: Crop
    seen: Bool[Array, "h w"]
    labels: Int[Array, "rows columns"] | None

    @property
    def pooled(self) -> bool:
        """Whether the whole tile has one label."""
        return self.whole.label is not None

    @property
    def known(self) -> Bool[Array, "rows columns"]:
        """Where of `labels` there are features: where anything was measured."""
        return np.full((1, 1), self.seen.any()) if self.pooled else self.seen

    def described(self, features: Float[Array, "h w n"]) -> Float[Array, "rows columns n"]:
        """Features of what is labelled: of every pixel, or their mean over those that were measured."""
        return features[self.seen].mean(0)[None, None] if self.pooled and self.seen.any() else features


Features = Callable[[Tile], Float[Array, "h w n"]]
"""What a classifier is given of a tile: numbers for each pixel."""


def tiles(source: Source, split: str, most: int | None, timesteps: int) -> Iterator[Tile]:
    """At most `most` samples of a split, evenly spread over it, each at up to so many timesteps; broken ones are left
    out, and said."""
    indices = source.indices(split)
    if most is not None:
        indices = indices[np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).astype(int))]
    inputs = [name for name, modality in source.modalities.items() if not modality.decode_only]
    for index in indices.tolist():
        try:
            height, width, length = source.shape(index)
            chosen = np.unique(np.linspace(0, length - 1, min(timesteps, length)).astype(int))
            whole = read_crop(source, index, Window(0, 0, height, width), chosen, timesteps)
        except BrokenSampleError as error:
            log.warning("left out of the evaluation: %s", error)
            continue
        seen = whole.any_valid(inputs)
        labels = None if whole.labels is None else np.where(seen, whole.labels, UNLABELLED)
        if whole.label is not None:
            labels = np.full((1, 1), whole.label if seen.any() else UNLABELLED)
        yield Tile(source.name(index), source.group(index), whole, seen, labels)


def embedding_of(model: TrainedModel, pooling: Pooling) -> Features:
    """A model's embedding, in half-overlapping windows of the training's tile side."""
    tiling = model.tiling(model.side // 2)
    return lambda tile: model.embed_whole(tile.whole, tiling, pooling)


def untrained(model: TrainedModel) -> TrainedModel:
    """The same model as its training began."""
    torch.manual_seed(model.config.seed)
    network = HybridModel(model.config, model.modalities).eval().to(model.device)
    return dataclasses.replace(model, network=network, step=0)


def raw_bands(inputs: list[str]) -> Features:
    """The normalised bands of all input modalities and timesteps, zeros where missing."""
    return lambda tile: np.concatenate([tile.whole.pixels[name].reshape(*tile.seen.shape, -1) for name in inputs], -1)


def patch_means(inputs: list[str], side: int) -> Features:
    """The raw bands averaged over patches of `side` × `side` pixels: what a patch says at most, without detail."""
    raw = raw_bands(inputs)

    def means(tile: Tile) -> Float[Array, "h w n"]:
        values = raw(tile)
        h, w, n = values.shape
        padded = np.pad(values * tile.seen[..., None], ((0, -h % side), (0, -w % side), (0, 0)))
        there = np.pad(tile.seen.astype(np.float32), ((0, -h % side), (0, -w % side)))
        shape = (padded.shape[0] // side, side, padded.shape[1] // side, side)
        total, count = padded.reshape(*shape, n).sum((1, 3)), there.reshape(shape).sum((1, 3))
        mean = total / np.maximum(count, 1)[..., None]
        return mean.repeat(side, 0).repeat(side, 1)[:h, :w]

    return means

"""The look at a model during training and at its end: a linear probe on its embeddings, and pictures of them."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from hybrid_patch.config.schema import Config
from hybrid_patch.curriculum import PatchSizes
from hybrid_patch.data.loading import crop
from hybrid_patch.data.sample import UNLABELLED, BrokenSampleError, Source, Window
from hybrid_patch.files import write_json
from hybrid_patch.nn.model import HybridModel
from hybrid_patch.embedding.pixels import embed
from hybrid_patch.probing.linear_probe import fit_linear_probe, score_linear_probe
from hybrid_patch.probing.pictures import draw_tile, shown_modality, visible_channels
from hybrid_patch.run_directory import RunDirectory

Array = np.ndarray
log = logging.getLogger(__name__)


class Tile(NamedTuple):
    """A whole sample, looked at window by window.

    Attributes:
        name: its path or name.
        embedding: `[H, W, D]`.
        raw: `[H, W, N]` the bands of all input modalities and timesteps, the baseline.
        image: `[H, W, 3]` visible bands at the timestep with the fewest missing pixels.
        labels: `[H, W]`, `UNLABELLED` where nothing was measured; None if the source has none.
    """

    name: str
    embedding: Float[Array, "h w d"]
    raw: Float[Array, "h w n"]
    image: Float[Array, "h w 3"]
    labels: Int[Array, "h w"] | None


def evaluate(
    model: HybridModel, source: Source, config: Config, sizes: PatchSizes, run: RunDirectory, step: int
) -> tuple[dict[str, float], list[Path]]:
    """Scores by name, and the pictures' paths. `evaluation.json` and `pictures/` are written.

    The probe learns on tiles of the train split and is scored on tiles of the val split; where the source has no
    labels or no val split there are pictures alone.
    """
    model.eval()
    train, val = (_tiles(model, source, config, sizes, split) for split in ("train", "val"))
    model.train()
    scores: dict[str, float] = {}
    if source.classes and train and val:
        try:
            for name in ("embedding", "raw"):
                features, labels, tiles = _pixels(train, name, config.evaluation.train_pixels, config.seed)
                probe = fit_linear_probe(features, labels, tiles)
                features, labels, _ = _pixels(val, name, None, config.seed)
                miou, accuracy = score_linear_probe(probe, features, labels)
                prefix = "probe" if name == "embedding" else "raw"
                scores |= {f"{prefix}_miou": miou, f"{prefix}_accuracy": accuracy}
        except ValueError as error:
            log.warning("no probe: %s", error)
    pictures = []
    for number, tile in enumerate((val or train)[: config.evaluation.pictures]):
        path = run.pictures / f"tile_{number}.png"
        title = f"{Path(tile.name).name} · processed at {sizes.processing}, output at {sizes.output} · step {step}"
        draw_tile(path, title, tile.image, tile.labels, source.classes, tile.embedding)
        pictures.append(path)
    write_json(
        run.evaluation,
        {"step": step, "train_tiles": len(train), "val_tiles": len(val), "classes": source.classes, **scores},
    )
    return scores, pictures


def _pixels(
    tiles: list[Tile], feature: str, most: int | None, seed: int
) -> tuple[Float[Array, "n d"], Int[Array, " n"], Int[Array, " n"]]:
    """Features, labels and tile numbers of labelled pixels; of at most `most` of them, as many from each tile."""
    rng = np.random.default_rng(seed)
    features, labels, numbers = [], [], []
    for number, tile in enumerate(tiles):
        assert tile.labels is not None
        places = np.flatnonzero(tile.labels.ravel() != UNLABELLED)
        if most is not None:
            places = rng.permutation(places)[: -(-most // len(tiles))]
        values: Array = getattr(tile, feature)
        features.append(values.reshape(-1, values.shape[-1])[places])
        labels.append(tile.labels.ravel()[places])
        numbers.append(np.full(len(places), number))
    return np.concatenate(features), np.concatenate(labels), np.concatenate(numbers)


def _tiles(model: HybridModel, source: Source, config: Config, sizes: PatchSizes, split: str) -> list[Tile]:
    """At most `evaluation.tiles` samples, evenly spread over the split; broken ones are left out."""
    indices = source.indices(split)
    places = np.linspace(0, len(indices) - 1, min(config.evaluation.tiles, len(indices))).astype(int)
    tiles = []
    for index in indices[np.unique(places)].tolist():
        try:
            tiles.append(_tile(model, source, index, config, sizes))
        except BrokenSampleError as error:
            log.warning("left out of the evaluation: %s", error)
    return tiles


def _tile(model: HybridModel, source: Source, index: int, config: Config, sizes: PatchSizes) -> Tile:
    """One sample, in half-overlapping windows of the training's tile side.

    Where windows overlap the embedding is their mean, weighted by the distance to each window's border, so that it has
    no seams.
    """
    height, width, length = source.shape(index)
    side, series = config.data.tile, config.data.timesteps
    timesteps = np.unique(np.linspace(0, length - 1, min(series, length)).astype(int))
    inputs = [name for name, modality in source.modalities.items() if not modality.decode_only]
    shown = shown_modality(source.modalities)
    channels = visible_channels(source.modalities[shown])
    device = next(model.parameters()).device
    embedding: Array | None = None
    weight = blending_weights(side)
    total = np.zeros((height, width, 1), np.float32)
    raw = np.zeros((height, width, sum(_numbers(source, name, series) for name in inputs)), np.float32)
    pictured: Array = np.zeros((height, width, series, 3), np.float32)
    there: Bool[Array, "h w t"] = np.zeros((height, width, series), bool)
    labels = np.full((height, width), UNLABELLED, np.int64) if source.classes else None
    stride = max(side // 2 // sizes.processing, 1) * sizes.processing
    for top in window_starts(height, side, stride):
        for left in window_starts(width, side, stride):
            part = crop(source, index, Window(top, left, side, side), timesteps, series)
            embedded = embed(model, [part], sizes, source.modalities, device)[0]
            if embedding is None:
                embedding = np.zeros((height, width, embedded.shape[-1]), np.float32)
            # A sample smaller than a window fills only the window's corner.
            place = np.s_[top : top + side, left : left + side]
            inside = np.s_[: min(side, height), : min(side, width)]
            embedding[place] += weight[inside] * embedded.float().cpu().numpy()[inside]
            total[place] += weight[inside]
            raw[place] = np.concatenate([part.pixels[n][inside].reshape(*raw[place].shape[:2], -1) for n in inputs], -1)
            t = part.pixels[shown].shape[2]
            pictured[(*place, np.s_[:t])] = part.pixels[shown][inside][..., channels]
            there[(*place, np.s_[:t])] = part.valid[shown][inside]
            if labels is not None and part.labels is not None:
                seen = np.any([part.valid[name][inside].any(-1) for name in inputs], axis=0)
                labels[place] = np.where(seen, part.labels, UNLABELLED)
    assert embedding is not None
    clearest = int(there.sum((0, 1)).argmax())
    return Tile(source.name(index), embedding / total, raw, pictured[:, :, clearest], labels)


def _numbers(source: Source, name: str, series: int) -> int:
    """How many numbers a pixel of a modality has, over all timesteps."""
    modality = source.modalities[name]
    return modality.channels * (series if modality.temporal else 1)


def window_starts(length: int, side: int, stride: int) -> list[int]:
    """Where windows begin along one side; the last is shifted inward."""
    return sorted({min(start, max(length - side, 0)) for start in range(0, length, stride)})


def blending_weights(side: int) -> Float[Array, "side side 1"]:
    """What each pixel of a window counts where windows overlap: 1 in the middle, falling to the borders, never 0."""
    ramp = np.minimum(np.arange(side) + 0.5, np.arange(side, 0, -1) - 0.5).astype(np.float32) * 2 / side
    return (ramp[:, None] * ramp)[..., None]

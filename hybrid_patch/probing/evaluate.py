"""The look at a model during training and at its end: a linear probe on its embeddings, and pictures of them."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from hybrid_patch.config.schema import Config
from hybrid_patch.curriculum import PatchSizes
from hybrid_patch.data.loading import Crop, crop
from hybrid_patch.data.sample import UNLABELLED, BrokenSampleError, Source, Window
from hybrid_patch.files import write_json
from hybrid_patch.nn.model import HybridModel
from hybrid_patch.probing.embedding import embed
from hybrid_patch.probing.linear_probe import linear_probe
from hybrid_patch.probing.pictures import draw_tile, shown_modality, visible_channels
from hybrid_patch.run_directory import RunDirectory

Array = np.ndarray
log = logging.getLogger(__name__)


class Tile(NamedTuple):
    """A tile, its embedding `[H, W, D]`, and the raw bands `[H, W, T C]` of all modalities as the baseline."""

    name: str
    crop: Crop
    embedding: Float[Array, "h w d"]
    raw: Float[Array, "h w n"]


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
        for name, feature in (("probe", "embedding"), ("raw", "raw")):
            features = [np.concatenate([getattr(tile, feature)[_inside(tile)] for tile in t]) for t in (train, val)]
            labels = [np.concatenate([_labels(tile) for tile in t]) for t in (train, val)]
            try:
                miou, accuracy = linear_probe(
                    features[0], labels[0], features[1], labels[1], config.evaluation.train_pixels, config.seed
                )
            except ValueError as error:
                log.warning("no probe: %s", error)
                break
            scores |= {f"{name}_miou": miou, f"{name}_accuracy": accuracy}
    shown = (val or train)[: config.evaluation.pictures]
    pictures = [_draw(tile, source, sizes, run.pictures, step, number) for number, tile in enumerate(shown)]
    write_json(
        run.evaluation,
        {"step": step, "train_tiles": len(train), "val_tiles": len(val), "classes": source.classes, **scores},
    )
    return scores, pictures


def _tiles(model: HybridModel, source: Source, config: Config, sizes: PatchSizes, split: str) -> list[Tile]:
    """The middles of at most `evaluation.tiles` samples, evenly spread over the split; broken ones are left out."""
    indices = source.indices(split)
    chosen = indices[np.unique(np.linspace(0, len(indices) - 1, config.evaluation.tiles).astype(int))] if len(indices) else []
    device = next(model.parameters()).device
    tiles = []
    for index in map(int, chosen):
        height, width, length = source.shape(index)
        side = config.data.tile
        window = Window(max(height - side, 0) // 2, max(width - side, 0) // 2, side, side)
        timesteps = np.unique(np.linspace(0, length - 1, min(config.data.timesteps, length)).astype(int))
        try:
            part = crop(source, index, window, timesteps, config.data.timesteps)
        except BrokenSampleError as error:
            log.warning("left out of the evaluation: %s", error)
            continue
        batch = part.batch(()).map(lambda x: x.to(device))
        embedding = embed(model, batch, sizes, source.modalities)[0].float().cpu().numpy()
        raw = np.concatenate([part.pixels[n].reshape(side, side, -1) for n, m in source.modalities.items() if not m.decode_only], -1)
        tiles.append(Tile(source.name(index), part, embedding, raw))
    return tiles


def _labels(tile: Tile) -> Int[Array, " n"]:
    """The labels of the pixels inside the sample, `UNLABELLED` where nothing at all was measured."""
    assert tile.crop.labels is not None
    h, w = tile.crop.labels.shape
    seen = np.any([valid[:h, :w].any(-1) for valid in tile.crop.valid.values()], axis=0)
    return np.where(seen, tile.crop.labels, UNLABELLED).ravel()


def _inside(tile: Tile) -> Array:
    """`[H, W]`, True for the pixels inside the sample."""
    assert tile.crop.labels is not None
    inside = np.zeros(tile.embedding.shape[:2], bool)
    inside[: tile.crop.labels.shape[0], : tile.crop.labels.shape[1]] = True
    return inside


def _draw(tile: Tile, source: Source, sizes: PatchSizes, folder: Path, step: int, number: int) -> Path:
    name = shown_modality(source.modalities)
    valid, pixels = tile.crop.valid[name], tile.crop.pixels[name]
    best = int(valid.sum((0, 1)).argmax())
    image = pixels[:, :, best][..., visible_channels(source.modalities[name])]
    path = folder / f"tile_{number}.png"
    title = f"{Path(tile.name).name}, ps={sizes.processing}→{sizes.output}, step {step}"
    draw_tile(path, title, image, tile.crop.labels, source.classes, tile.embedding)
    return path

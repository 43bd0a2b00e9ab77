"""What per-pixel embeddings are worth: classifiers on them, baselines beside them, and what shows without labels."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.config.schema import Evaluation
from hybrid_patch.data.source import UNLABELLED, Source
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.evaluate.features import Features, Tile, embedding_of, patch_means, raw_bands, tiles, untrained
from hybrid_patch.evaluate.knn import fit_knn
from hybrid_patch.evaluate.label_maps import block_majority
from hybrid_patch.evaluate.linear_probe import NotEnoughLabelsError, fit_linear_probe
from hybrid_patch.evaluate.pictures import Shown, draw_tiles
from hybrid_patch.evaluate.pixel_sampling import draw_pools
from hybrid_patch.evaluate.scores import Counts, confusions
from hybrid_patch.evaluate.unsupervised import StructureOf

Array = np.ndarray
log = logging.getLogger(__name__)

EMBEDDING, UNTRAINED, RAW, MEANS, ORACLE = "embedding", "untrained", "raw", "means", "oracle"
LINEAR, KNN, MAJORITY = "linear", "knn", "majority"
MIXED_SIDE = 8
"""Side, in pixels, of the patches that are looked at for several classes, averaged, and given their true majority."""


class Evaluated(NamedTuple):
    """What an evaluation found.

    Attributes:
        report: as in `evaluation.json`; its `scores` are a few figures by short names, for metrics.
        pictures: their files.
    """

    report: dict[str, Any]
    pictures: list[Path]


class Classifier(Protocol):
    """What tells the classes of pixels."""

    def predict(self, features: Float[Array, "n d"]) -> Int[Array, " n"]:
        """The class of each."""
        ...


class Fitted(NamedTuple):
    """A classifier, its name, and the seed by which its pixels were drawn."""

    seed: int
    name: str
    classifier: Classifier


def evaluate(
    model: TrainedModel,
    source: Source,
    settings: Evaluation,
    pictures: Path,
    others: Mapping[str, TrainedModel] | None = None,
) -> Evaluated:
    """Evaluate a model on a source, with pictures in a folder.

    Classifiers learn on tiles of the train split and are scored on all labelled pixels of tiles of the val split; where
    the source has no labels or no val split, there is only what shows without them. Where whole tiles have labels, they
    are classified by the mean of their pixels' embeddings.

    Args:
        others: more models by name, for the pictures.
    """
    timesteps = model.config.data.timesteps
    validated = "val" if len(source.indices("val")) else "train"

    def read(split: str) -> Iterable[Tile]:
        return tiles(source, split, settings.tiles, timesteps)

    per_tile = any(tile.pooled for tile in tiles(source, validated, 1, timesteps))
    labelled = bool(source.classes) and validated == "val"
    structure = StructureOf(model.sizes.processing)
    found: dict[str, dict[str, Any]] = {}
    shown: list[Shown] = []
    for kind, features in _kinds(model, settings, per_tile).items():
        fitted: list[Fitted] = []
        try:
            fitted = _classifiers(features, read("train"), settings) if labelled else []
        except NotEnoughLabelsError as error:
            log.warning("no scores: %s", error)
            labelled = False
        if kind != EMBEDDING and not fitted:
            break
        counts = {one.name: Counts(len(source.classes)) for one in fitted}
        for tile in read(validated):
            values = features(tile)
            predictions = _predict(fitted, tile.described(values), tile, counts, len(source.classes))
            if kind == EMBEDDING:
                structure.add(values, tile.seen)
                if len(shown) < settings.pictures:
                    shown.append(Shown(tile, values, predictions.get((0, LINEAR))))
        if fitted:
            found[kind] = {name: count.report(source.classes) for name, count in counts.items()}
            log.info("scored: %s", kind)
    if found and ORACLE in settings.baselines and not per_tile:
        found[ORACLE] = {MAJORITY: _oracle(read("val"), source.classes)}
    without = structure.result()
    report: dict[str, Any] = {
        "step": model.step,
        "processing_patch_size": model.sizes.processing,
        "output_patch_size": model.sizes.output,
        "settings": dataclasses.asdict(settings),
        "classes": list(source.classes),
        "tiles": {split: _count(source, split, settings) for split in ("train", "val")},
        "features": found,
        "structure": None if without is None else without._asdict(),
    }
    report["scores"] = short_scores(report)
    return Evaluated(report, draw_tiles(pictures, model, source, shown, others or {}))


def _kinds(model: TrainedModel, settings: Evaluation, per_tile: bool) -> dict[str, Features]:
    """The embedding, and the baselines that have features; of a whole tile the means of patches say no more."""
    kinds = {EMBEDDING: embedding_of(model, settings.pooling)}
    if UNTRAINED in settings.baselines:
        kinds[UNTRAINED] = embedding_of(untrained(model), settings.pooling)
    if RAW in settings.baselines:
        kinds[RAW] = raw_bands(model.inputs)
    if MEANS in settings.baselines and not per_tile:
        kinds[MEANS] = patch_means(model.inputs, MIXED_SIDE)
    return kinds


def _oracle(val: Iterable[Tile], classes: Sequence[str]) -> dict[str, dict[str, object]]:
    """The scores of each patch's true majority."""
    counts = Counts(len(classes))
    for tile in val:
        assert tile.labels is not None
        best = block_majority(tile.labels, MIXED_SIDE)
        counts.add(0, tile.group, confusions(tile.labels, best, len(classes), MIXED_SIDE))
    return counts.report(classes)


def _classifiers(features: Features, train: Iterable[Tile], settings: Evaluation) -> list[Fitted]:
    """For every seed a linear probe, and a kNN classifier if it is asked for: seed, name, and classifier."""
    fitted = []
    for seed, pool in enumerate(draw_pools(features, train, settings.train_pixels, settings.seeds)):
        probe = fit_linear_probe(*pool)
        if not probe.converged:
            log.warning("the linear probe of seed %d has not converged", seed)
        fitted.append(Fitted(seed, LINEAR, probe))
        if settings.knn_pixels:
            rng = np.random.default_rng(seed)
            fitted.append(Fitted(seed, KNN, fit_knn(pool.features, pool.labels, settings.knn_pixels, rng)))
    return fitted


def _predict(
    classifiers: Sequence[Fitted],
    values: Float[Array, "rows columns n"],
    tile: Tile,
    counts: Mapping[str, Counts],
    classes: int,
) -> dict[tuple[int, str], Int[Array, "rows columns"]]:
    """The classes of a tile's pixels, or of the tile, by each classifier, counted."""
    predictions = {}
    for seed, name, classifier in classifiers:
        assert tile.labels is not None
        predicted = np.full(tile.labels.shape, UNLABELLED, np.int64)
        if tile.known.any():
            predicted[tile.known] = classifier.predict(values[tile.known])
        predictions[seed, name] = predicted
        counts[name].add(seed, tile.group, confusions(tile.labels, predicted, classes, MIXED_SIDE))
    return predictions


def _count(source: Source, split: str, settings: Evaluation) -> int:
    there = len(source.indices(split))
    return there if settings.tiles is None else min(there, settings.tiles)


def short_scores(report: Mapping[str, Any]) -> dict[str, float]:
    """For metrics: `probe_miou`, `probe_accuracy`, `probe_mixed_miou`, `knn_miou`, the same with `raw_` for the raw
    bands, and what shows without labels."""
    scores: dict[str, float] = {}
    for kind, prefix in ((EMBEDDING, ""), (RAW, "raw_")):
        for classifier, word in ((LINEAR, "probe"), (KNN, "knn")):
            parts = report["features"].get(kind, {}).get(classifier, {})
            name = prefix + word if prefix != "raw_" or word == "knn" else "raw"
            if "all" in parts:
                scores[f"{name}_miou"] = parts["all"]["miou"]["mean"]
                scores[f"{name}_accuracy"] = parts["all"]["accuracy"]["mean"]
            if "mixed" in parts:
                scores[f"{name}_mixed_miou"] = parts["mixed"]["miou"]["mean"]
    for name, value in (report["structure"] or {}).items():
        if value is not None:
            scores[name] = value
    return scores

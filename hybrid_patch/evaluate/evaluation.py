"""Evaluate per-pixel embeddings: classifiers on them and on baselines, and figures that need no labels."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.config.schema import Evaluation
from hybrid_patch.data.source import Source, open_source
from hybrid_patch.embed.trained_model import TrainedModel, load
from hybrid_patch.evaluate.features import Features, Tile, embedding_of, patch_means, raw_bands, read_tiles, untrained
from hybrid_patch.evaluate.knn import fit_knn
from hybrid_patch.evaluate.label_maps import block_majority
from hybrid_patch.evaluate.linear_probe import fit_linear_probe
from hybrid_patch.evaluate.options import EvaluateOptions
from hybrid_patch.evaluate.pictures import DrawnTile, draw_tiles
from hybrid_patch.evaluate.pixel_sampling import NotEnoughLabelsError, sample_pixels
from hybrid_patch.evaluate.scores import ConfusionCounts
from hybrid_patch.evaluate.settings import settings_of
from hybrid_patch.evaluate.unsupervised import StructureAccumulator
from hybrid_patch.runs.atomic_files import write_json
from hybrid_patch.runs.provenance import provenance

Array = np.ndarray
log = logging.getLogger(__name__)

EMBEDDING, UNTRAINED, RAW, MEANS, ORACLE = "embedding", "untrained", "raw", "means", "oracle"
LINEAR, KNN, MAJORITY = "linear", "knn", "majority"
MIXED_SIDE = 8
"""Side, in pixels, of the patches that count as mixed, that `means` averages, and that the oracle gives one class."""

Scores = dict[str, dict[str, object]]
"""By part of the pixels, as `ConfusionCounts.report` returns them."""
Observe = Callable[[Tile, Float[Array, "h w n"], Int[Array, "rows columns"] | None], None]
"""Called with a tile, its features, and the first linear probe's predictions, if there are labels to learn from."""


class Evaluated(NamedTuple):
    """The result of an evaluation.

    Attributes:
        report: as in `evaluation.json`; its `scores` are the main figures under short names, for metrics.
        pictures: their files.
    """

    report: dict[str, Any]
    pictures: list[Path]


class Fitted(NamedTuple):
    """A classifier, its name, and the seed with which its training pixels were drawn."""

    seed: int
    name: str
    predict: Callable[[Float[Array, "n d"]], Int[Array, " n"]]


def evaluate_run(options: EvaluateOptions) -> dict[str, Any]:
    """Evaluate a finished run: write its report and its pictures, and return the report. Raises InputError."""
    began = time.monotonic()
    model = load(options.run)
    others = {name: load(path) for name, path in options.others.items()}
    data, evaluation = settings_of(model, options.overrides)
    report, _ = evaluate(model, open_source(data), evaluation, options.pictures, others)
    report = {
        "run": str(options.run),
        "data": {"name": data.name, "root": getattr(data, "root", None), "fingerprint": data.fingerprint()},
        **report,
        "seconds": time.monotonic() - began,
        "machine": provenance(),
    }
    write_json(options.report, report)
    return report


def evaluate(
    model: TrainedModel,
    source: Source,
    settings: Evaluation,
    pictures: Path,
    others: Mapping[str, TrainedModel] | None = None,
) -> Evaluated:
    """Evaluate a model on a source, with pictures in a folder.

    Classifiers learn on tiles of the train split and are scored on all labelled pixels of tiles of the val split.
    Without labels or a val split, there are only the figures that need none. Where whole tiles have labels, the mean
    embedding of a tile's pixels is classified.

    Args:
        others: more models by name, for the pictures.
    """
    timesteps = model.config.data.timesteps
    split = "val" if len(source.indices("val")) else "train"
    pooled = any(tile.pooled for tile in read_tiles(source, split, 1, timesteps))
    structure = StructureAccumulator(model.sizes.processing)
    drawn: list[DrawnTile] = []

    def read(split: str) -> Iterable[Tile]:
        return read_tiles(source, split, settings.tiles, timesteps)

    def observe(tile: Tile, values: Float[Array, "h w n"], predicted: Int[Array, "rows columns"] | None) -> None:
        structure.add(values, tile.valid_mask)
        if len(drawn) < settings.pictures:
            drawn.append(DrawnTile(tile, values, predicted))

    def score(kind: str, features: Features, observe: Observe | None = None) -> None:
        fitted = _fit(features, read("train"), settings) if source.classes and split == "val" else []
        if scores := _score(features, fitted, read(split), source.classes, observe):
            by_kind[kind] = scores
            log.info("scored: %s", kind)

    by_kind: dict[str, dict[str, Scores]] = {}
    score(EMBEDDING, embedding_of(model, settings.pooling), observe)
    if by_kind:
        for kind, features in _baselines(model, settings, pooled).items():
            score(kind, features)
        if ORACLE in settings.baselines and not pooled:
            by_kind[ORACLE] = {MAJORITY: _oracle(read("val"), source.classes)}
    report = _report(model, source, settings, by_kind, structure)
    return Evaluated(report, draw_tiles(pictures, model, source, drawn, others or {}))


def _baselines(model: TrainedModel, settings: Evaluation, pooled: bool) -> dict[str, Features]:
    """The baselines that have features. Of a whole tile, the means of patches are no different from the raw bands."""
    baselines: dict[str, Features] = {}
    if UNTRAINED in settings.baselines:
        baselines[UNTRAINED] = embedding_of(untrained(model), settings.pooling)
    if RAW in settings.baselines:
        baselines[RAW] = raw_bands(model.inputs)
    if MEANS in settings.baselines and not pooled:
        baselines[MEANS] = patch_means(model.inputs, MIXED_SIDE)
    return baselines


def _fit(features: Features, train: Iterable[Tile], settings: Evaluation) -> list[Fitted]:
    """For every seed a linear probe and, unless `knn_pixels` is 0, a kNN classifier; none if labels are too few."""
    try:
        samples = sample_pixels(features, train, settings.train_pixels, settings.seeds)
    except NotEnoughLabelsError as error:
        log.warning("no scores: %s", error)
        return []
    fitted = []
    for seed, sample in enumerate(samples):
        probe = fit_linear_probe(*sample)
        if not probe.converged:
            log.warning("the linear probe of seed %d has not converged", seed)
        fitted.append(Fitted(seed, LINEAR, probe.predict))
        if settings.knn_pixels:
            rng = np.random.default_rng(seed)
            fitted.append(Fitted(seed, KNN, fit_knn(sample.features, sample.labels, settings.knn_pixels, rng).predict))
    return fitted


def _score(
    features: Features,
    classifiers: Sequence[Fitted],
    tiles: Iterable[Tile],
    classes: Sequence[str],
    observe: Observe | None,
) -> dict[str, Scores]:
    """The scores of each kind of classifier on tiles."""
    counts = {name: ConfusionCounts(classes) for _, name, _ in classifiers}
    if not counts and observe is None:
        return {}
    for tile in tiles:
        values = features(tile)
        drawn = None
        for seed, name, predict in classifiers:
            assert tile.labels is not None
            predicted = tile.predict(predict, values)
            drawn = predicted if (seed, name) == (0, LINEAR) else drawn
            counts[name].add(seed, tile.group, tile.labels, predicted, MIXED_SIDE)
        if observe is not None:
            observe(tile, values, drawn)
    return {name: count.report() for name, count in counts.items()}


def _oracle(tiles: Iterable[Tile], classes: Sequence[str]) -> Scores:
    """The scores of each patch's true majority."""
    counts = ConfusionCounts(classes)
    for tile in tiles:
        assert tile.labels is not None
        counts.add(0, tile.group, tile.labels, block_majority(tile.labels, MIXED_SIDE), MIXED_SIDE)
    return counts.report()


def _report(
    model: TrainedModel,
    source: Source,
    settings: Evaluation,
    by_kind: Mapping[str, Mapping[str, Scores]],
    accumulated: StructureAccumulator,
) -> dict[str, Any]:
    structure = accumulated.result()
    sizes = {split: len(source.indices(split)) for split in ("train", "val")}
    report: dict[str, Any] = {
        "step": model.step,
        "processing_patch_size": model.sizes.processing,
        "output_patch_size": model.sizes.output,
        "settings": dataclasses.asdict(settings),
        "classes": list(source.classes),
        "tiles": {k: size if settings.tiles is None else min(size, settings.tiles) for k, size in sizes.items()},
        "features": by_kind,
        "structure": None if structure is None else structure._asdict(),
    }
    report["scores"] = short_scores(report)
    return report


def short_scores(report: Mapping[str, Any]) -> dict[str, float]:
    """For metrics: `probe_miou`, `probe_accuracy`, `probe_mixed_miou`, `knn_miou` …, the same of the raw bands as
    `raw_miou` … and `raw_knn_miou` …, and the figures that need no labels."""
    scores: dict[str, float] = {}
    names = {(EMBEDDING, LINEAR): "probe", (EMBEDDING, KNN): "knn", (RAW, LINEAR): "raw", (RAW, KNN): "raw_knn"}
    for (kind, classifier), name in names.items():
        parts = report["features"].get(kind, {}).get(classifier, {})
        for part, metric in (("all", "miou"), ("all", "accuracy"), ("mixed", "miou")):
            if part in parts:
                scores[f"{name}_{'mixed_' if part == 'mixed' else ''}{metric}"] = parts[part][metric]["mean"]
    structure = {name: value for name, value in (report["structure"] or {}).items() if value is not None}
    return scores | structure

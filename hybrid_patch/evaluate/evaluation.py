"""Evaluate per-pixel embeddings: classifiers on them and on baselines, and figures that need no labels."""

import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.config.schema import Evaluation
from hybrid_patch.data.source import Source, open_source
from hybrid_patch.embed.per_pixel import Pooling
from hybrid_patch.embed.trained_model import TrainedModel, load
from hybrid_patch.evaluate import features
from hybrid_patch.evaluate.features import Features, Tile, read_tiles
from hybrid_patch.evaluate.knn import fit_knn, in_blocks
from hybrid_patch.evaluate.linear_probe import fit_linear_probe
from hybrid_patch.evaluate.options import EvaluateOptions
from hybrid_patch.evaluate.pictures import DrawnTile, draw_tiles
from hybrid_patch.evaluate.pixel_sampling import NotEnoughLabelsError, sample_pixels
from hybrid_patch.evaluate.scores import ConfusionCounts
from hybrid_patch.evaluate.settings import settings_of
from hybrid_patch.evaluate.unsupervised import Structure, StructureAccumulator
from hybrid_patch.runs.atomic_files import write_bytes, write_json
from hybrid_patch.runs.provenance import provenance
from hybrid_patch.runs.stop_signal import Check, proceed

Array = np.ndarray
log = logging.getLogger(__name__)

EMBEDDING, UNTRAINED, RAW, MEANS, ORACLE = "embedding", "untrained", "raw", "means", "oracle"
LINEAR, KNN, MAJORITY = "linear", "knn", "majority"
MIXED_SIDE = 8
"""Side, in pixels, of the patches that count as mixed, that `means` averages, and that the oracle gives one class."""


class Fitted(NamedTuple):
    """A classifier, its name, and the seed with which its training pixels were drawn."""

    seed: int
    name: str
    predict: Callable[[Float[Array, "n d"]], Int[Array, " n"]]


def evaluate_run(options: EvaluateOptions, check: Check = proceed) -> dict[str, Any]:
    """Evaluate a finished run: write its report and its pictures, and return the report.

    Raises InputError, and what `check` raises; then nothing is written.
    """
    began = time.monotonic()
    model = load(options.run)
    others = {name: load(path) for name, path in options.others.items()}
    data, evaluation = settings_of(model, options.overrides)
    with tempfile.TemporaryDirectory() as folder:
        report, drawn = evaluate(model, open_source(data), evaluation, Path(folder), others, check)
        report = {
            "run": str(options.run),
            "data": {"name": data.name, "root": getattr(data, "root", None), "fingerprint": data.fingerprint()},
            **report,
            "seconds": time.monotonic() - began,
            "machine": provenance(),
        }
        write_evaluation(options.report, report, options.pictures, drawn)
    return report


def write_evaluation(path: Path, report: Mapping[str, Any], pictures: Path, drawn: Sequence[Path]) -> list[Path]:
    """Write a report, after the pictures that were drawn elsewhere; returns the pictures."""
    paths = [pictures / picture.name for picture in drawn]
    for picture, written in zip(drawn, paths, strict=True):
        write_bytes(written, picture.read_bytes())
    write_json(path, report)
    return paths


def evaluate(
    model: TrainedModel,
    source: Source,
    settings: Evaluation,
    pictures: Path,
    others: Mapping[str, TrainedModel] | None = None,
    check: Check = proceed,
) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a model on a source, with pictures of it (and of `others`, by name) in a folder.

    Returns the report, as in `evaluation.json`, and the pictures. Classifiers learn on tiles of the train split and are
    scored on all labelled pixels of tiles of the val split. Without labels or a val split, there are only the figures
    that need none. Where whole tiles have labels, the mean embedding of a tile's pixels is classified. `check` is
    called every second or so.
    """
    timesteps = model.config.data.timesteps
    split = "val" if len(source.indices("val")) else "train"
    pooled = any(tile.pooled for tile in read_tiles(source, split, 1, timesteps))
    structure = StructureAccumulator(model.sizes.processing, model.tiling())
    drawn: list[DrawnTile] = []
    by_kind: dict[str, dict[str, Any]] = {}
    for kind in (EMBEDDING, *settings.baselines):
        if pooled and kind in (MEANS, ORACLE):  # of a whole tile, the means of patches are those of the raw bands
            continue
        if kind != EMBEDDING and not by_kind:
            break
        features_of = _features(kind, model, settings, check)
        train = read_tiles(source, "train", settings.tiles, timesteps, check)
        labelled = source.class_names() and split == "val"
        classifiers = _fit(kind, features_of, train, settings, check) if labelled else []
        counts = {name: ConfusionCounts(source.class_names()) for _, name, _ in classifiers}
        for tile in read_tiles(source, split, settings.tiles, timesteps, check):
            values = features_of(tile)
            predictions = [tile.predict(predict, values) for _, _, predict in classifiers]
            for (seed, name, _), predicted in zip(classifiers, predictions, strict=True):
                assert tile.labels is not None
                counts[name].add(seed, tile.group, tile.labels, predicted, MIXED_SIDE)
            if kind == EMBEDDING:
                structure.add(values, tile.valid_mask)
                _add_maps(structure, model, tile, settings.pooling, check)
                if len(drawn) < settings.pictures:
                    drawn.append(DrawnTile(tile, values, next(iter(predictions), None)))
        if counts:
            by_kind[kind] = {name: count.report() for name, count in counts.items()}
            log.info("scored: %s", kind)
    report = _report(model, source, settings, by_kind, structure.result())
    return report, draw_tiles(pictures, model, source, drawn, others or {}, check)


def _add_maps(structure: StructureAccumulator, model: TrainedModel, tile: Tile, pooling: Pooling, check: Check) -> None:
    """Embed a tile as for a map, unlike for classifiers, and again from half a stride on; mirrored if it is small."""
    image = tile.whole.mirrored(structure.windows.least_side, structure.windows.least_side)
    valid_mask = image.any_valid(model.inputs)
    parts = structure.windows.parts(*valid_mask.shape)
    whole, shifted = (model.embed_whole(image.window(part), model.tiling(), pooling, check) for part in parts)
    structure.windows.add(whole, shifted, valid_mask[parts[0].slices])


def _features(kind: str, model: TrainedModel, settings: Evaluation, check: Check) -> Features:
    if kind == RAW:
        return features.raw_bands(model.inputs)
    if kind == MEANS:
        return features.patch_means(model.inputs, MIXED_SIDE)
    if kind == ORACLE:
        return features.majority(MIXED_SIDE)
    return features.embedding_of(features.untrained(model) if kind == UNTRAINED else model, settings.pooling, check)


def _fit(kind: str, features_of: Features, train: Iterable[Tile], settings: Evaluation, check: Check) -> list[Fitted]:
    """For every seed a linear probe and, unless `knn_pixels` is 0, a kNN classifier; none if labels are too few."""
    if kind == ORACLE:  # its feature is the class
        return [Fitted(0, MAJORITY, lambda values: values[:, 0].astype(np.int64))]
    try:
        samples = sample_pixels(features_of, train, settings.train_pixels, settings.seeds)
    except NotEnoughLabelsError as error:
        log.warning("no scores: %s", error)
        return []
    fitted = []
    for seed, sample in enumerate(samples):
        probe = fit_linear_probe(*sample, check)
        if not probe.converged:
            log.warning("the linear probe of seed %d has not converged", seed)
        fitted.append(Fitted(seed, LINEAR, probe.predict))
        if settings.knn_pixels:
            rng = np.random.default_rng(seed)
            knn = fit_knn(sample.features, sample.labels, settings.knn_pixels, rng)
            fitted.append(Fitted(seed, KNN, in_blocks(knn.predict, check)))
    return fitted


def _report(
    model: TrainedModel,
    source: Source,
    settings: Evaluation,
    by_kind: Mapping[str, Mapping[str, Any]],
    structure: Structure | None,
) -> dict[str, Any]:
    sizes = {split: len(source.indices(split)) for split in ("train", "val")}
    report: dict[str, Any] = {
        "step": model.step,
        "processing_patch_size": model.sizes.processing,
        "output_patch_size": model.sizes.output,
        "settings": dataclasses.asdict(settings),
        "classes": list(source.class_names()),
        "tiles": {k: size if settings.tiles is None else min(size, settings.tiles) for k, size in sizes.items()},
        "features": by_kind,
        "structure": None if structure is None else structure._asdict(),
    }
    return report | {"scores": _short_scores(report)}


def _short_scores(report: Mapping[str, Any]) -> dict[str, float]:
    """The main figures, for metrics: `probe_miou`, `probe_mixed_miou`, `knn_accuracy`, `raw_miou`, `lattice_ratio` …"""
    scores: dict[str, float] = {}
    names = {(EMBEDDING, LINEAR): "probe", (EMBEDDING, KNN): "knn", (RAW, LINEAR): "raw", (RAW, KNN): "raw_knn"}
    for (kind, classifier), name in names.items():
        parts = report["features"].get(kind, {}).get(classifier, {})
        for part, metric in (("all", "miou"), ("all", "accuracy"), ("mixed", "miou")):
            if part in parts:
                scores[f"{name}_{'mixed_' if part == 'mixed' else ''}{metric}"] = parts[part][metric]["mean"]
    structure = {name: value for name, value in (report["structure"] or {}).items() if value is not None}
    return scores | structure

"""Evaluate per-pixel embeddings: classifiers on them and on baselines, and figures that need no labels."""

import dataclasses
import logging
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hybrid_patch.config.schema import Evaluation
from hybrid_patch.data.source import Source, open_source
from hybrid_patch.embed.per_pixel import Pooling
from hybrid_patch.embed.trained_model import TrainedModel, load
from hybrid_patch.evaluate import features
from hybrid_patch.evaluate.classifiers import KNN, LINEAR, ORACLE_CLASSIFIER, Fitted, fit_classifiers
from hybrid_patch.evaluate.features import Features, Tile, read_tiles
from hybrid_patch.evaluate.options import EvaluateOptions
from hybrid_patch.evaluate.pictures import DrawnTile, draw_tiles
from hybrid_patch.evaluate.pixel_sampling import NotEnoughLabelsError, sample_pixels
from hybrid_patch.evaluate.results import MIXED_SIDE, Results
from hybrid_patch.evaluate.settings import settings_of
from hybrid_patch.evaluate.unsupervised import Structure, StructureAccumulator
from hybrid_patch.runs.atomic_files import write_bytes, write_json
from hybrid_patch.runs.progress import Show, Work, share_progress, unseen
from hybrid_patch.runs.provenance import provenance
from hybrid_patch.runs.stop_signal import Check, proceed

log = logging.getLogger(__name__)

EMBEDDING, RAW, ORACLE = "embedding", "raw", "oracle"
RANDOM_FEATURES = (64, 256)
TILE_WORK, FIT_WORK, SCORE_WORK = 1, 15, 4
"""What a training tile, the classifiers of a seed and kind of features, and a validation tile take, to tell the time
that is left: about so on two cores with a small model."""


def evaluate_run(options: EvaluateOptions, check: Check = proceed) -> dict[str, Any]:
    """Evaluate a finished run: write its report and its pictures, and return the report.

    Raises InputError, and what `check` raises; then nothing is written.
    """
    began = time.monotonic()
    model = load(options.run)
    others = {name: load(path) for name, path in options.others.items()}
    data, evaluation = settings_of(model, options.overrides)
    with tempfile.TemporaryDirectory() as folder:
        with share_progress("evaluating") as show:
            report, drawn = evaluate(model, open_source(data), evaluation, Path(folder), others, check, show)
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
    show: Show = unseen,
) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a model on a source, with pictures of it (and of `others`, by name) in a folder.

    Returns the report, as in `evaluation.json`, and the pictures. Classifiers learn on tiles of the train split and are
    scored on all labelled pixels of tiles of the val split. Without labels or a val split, there are only the figures
    that need none. Where whole tiles have labels, the mean embedding of a tile's pixels is classified. `check` is
    called every second or so, `show` as the work gets on.
    """
    timesteps = model.config.data.timesteps
    split = "val" if len(source.indices("val")) else "train"
    pooled = any(tile.pooled for tile in read_tiles(source, split, 1, timesteps))
    features_of = _features(model, settings, pooled, check)
    sizes, fits = _sizes(source, settings), settings.seeds * len(features_of)
    work = Work(show, sizes["train"] * TILE_WORK + fits * FIT_WORK + sizes[split] * SCORE_WORK)
    classifiers: dict[str, list[Fitted]] = {}
    if source.class_names() and split == "val":
        train = work.on(read_tiles(source, "train", settings.tiles, timesteps, check), TILE_WORK, "training tile")
        classifiers = _fit(features_of, train, settings, model.device, check, work)
    results = Results(source.class_names(), settings.scored_pixels)
    structure = StructureAccumulator(model.sizes.processing, model.tiling())
    drawn: list[DrawnTile] = []
    tiles = work.on(read_tiles(source, split, settings.tiles, timesteps, check), SCORE_WORK, "validation tile")
    for number, tile in enumerate(tiles):
        for kind, of_tile in features_of.items():
            if kind not in classifiers and kind != EMBEDDING:
                continue
            values = of_tile(tile)
            predicted = results.add(kind, classifiers.get(kind, ()), tile, number, values)
            if kind == EMBEDDING:
                structure.add(values, tile.valid_mask)
                _add_maps(structure, model, tile, settings.pooling, check)
                if len(drawn) < settings.pictures:
                    drawn.append(DrawnTile(tile, values, predicted))
    report = _report(model, source, settings, results, structure.result())
    return report, draw_tiles(pictures, model, source, drawn, others or {}, check)


def _add_maps(structure: StructureAccumulator, model: TrainedModel, tile: Tile, pooling: Pooling, check: Check) -> None:
    """Embed a tile as for a map, unlike for classifiers, and again from half a stride on; mirrored if it is small."""
    image = tile.whole.mirrored(structure.windows.least_side, structure.windows.least_side)
    valid_mask = image.any_valid(model.inputs)
    parts = structure.windows.parts(*valid_mask.shape)
    whole, shifted = (model.embed_whole(image.window(part), model.tiling(), pooling, check) for part in parts)
    structure.windows.add(whole, shifted, valid_mask[parts[0].slices])


def _features(model: TrainedModel, settings: Evaluation, pooled: bool, check: Check) -> dict[str, Features]:
    """The features of each kind, the embedding first."""
    made = {EMBEDDING: features.embedding_of(model, settings.pooling, check)}
    for baseline in settings.baselines:
        if not (pooled and baseline in ("means", "oracle")):  # of a whole tile, means of patches are those of raw bands
            made |= _baseline(baseline, model, settings, check)
    return made


def _baseline(name: str, model: TrainedModel, settings: Evaluation, check: Check) -> dict[str, Features]:
    if name == "random":
        return {f"random{count}": features.random_features(model.inputs, count) for count in RANDOM_FEATURES}
    if name == "untrained":
        return {name: features.embedding_of(features.untrained(model), settings.pooling, check)}
    if name == "surroundings":
        return {name: features.surroundings(model.inputs)}
    if name == "means":
        return {name: features.patch_means(model.inputs, MIXED_SIDE)}
    return {RAW: features.raw_bands(model.inputs)} if name == RAW else {ORACLE: features.majority(MIXED_SIDE)}


def _fit(
    features_of: Mapping[str, Features],
    train: Iterable[Tile],
    settings: Evaluation,
    device: torch.device,
    check: Check,
    work: Work,
) -> dict[str, list[Fitted]]:
    """The classifiers of each kind of features; none if labels are too few."""
    learned = {kind: of_tile for kind, of_tile in features_of.items() if kind != ORACLE}
    try:
        samples = sample_pixels(learned, train, settings.train_pixels, settings.seeds)
    except NotEnoughLabelsError as error:
        log.warning("no scores: %s", error)
        return {}
    fitted: dict[str, list[Fitted]] = {}
    for kind in features_of:
        fitted[kind] = [] if kind in samples else [ORACLE_CLASSIFIER]
        for seed, sample in enumerate(samples.pop(kind, ())):  # each kind's pixels are let go when it has learned
            fitted[kind] += fit_classifiers(sample, seed, settings, device, check)
            work.done(FIT_WORK, f"classifiers of {kind}, seed {seed}")
    return fitted


def _sizes(source: Source, settings: Evaluation) -> dict[str, int]:
    """How many tiles of each split are embedded."""
    sizes = {split: len(source.indices(split)) for split in ("train", "val")}
    return {split: size if settings.tiles is None else min(size, settings.tiles) for split, size in sizes.items()}


def _report(
    model: TrainedModel, source: Source, settings: Evaluation, results: Results, structure: Structure | None
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "step": model.step,
        "processing_patch_size": model.sizes.processing,
        "output_patch_size": model.sizes.output,
        "settings": dataclasses.asdict(settings),
        "classes": list(source.class_names()),
        "tiles": _sizes(source, settings),
        "features": results.features(),
        "few_labels": results.few_labels(),
        "above": results.above(EMBEDDING),
        "structure": None if structure is None else structure._asdict(),
    }
    return report | {"scores": _short_scores(report)}


def _short_scores(report: Mapping[str, Any]) -> dict[str, float]:
    """The main figures, for metrics: `probe_miou`, `probe_mixed_miou`, `knn_accuracy`, `raw_miou`, `lattice_ratio` …"""
    scores: dict[str, float] = {}
    for kind, by_classifier in report["features"].items():
        names = {LINEAR: "probe", KNN: "knn"} if kind == EMBEDDING else {LINEAR: kind, KNN: f"{kind}_knn"}
        for classifier, name in names.items():
            parts = by_classifier.get(classifier, {})
            for part, metric in (("all", "miou"), ("all", "accuracy"), ("mixed", "miou")):
                if part in parts:
                    scores[f"{name}_{'mixed_' if part == 'mixed' else ''}{metric}"] = parts[part][metric]["mean"]
    structure = {name: value for name, value in (report["structure"] or {}).items() if value is not None}
    return scores | structure

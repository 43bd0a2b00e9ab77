"""Evaluate per-pixel embeddings: classifiers on them and on baselines, and figures that need no labels."""

import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from hybrid_patch.config.schema import Evaluation
from hybrid_patch.data.source import Source, open_source
from hybrid_patch.embed.threads import Mapped, mapped_in_threads
from hybrid_patch.embed.trained_model import TrainedModel, load
from hybrid_patch.evaluate import features
from hybrid_patch.evaluate.classifiers import HEAD, KNN, LINEAR, ORACLE_CLASSIFIER, Fitted, fit_classifiers
from hybrid_patch.evaluate.features import Features, Tile, read_tiles
from hybrid_patch.evaluate.head_scores import can_be_scored
from hybrid_patch.evaluate.options import EvaluateOptions
from hybrid_patch.evaluate.pictures import draw_tiles
from hybrid_patch.evaluate.pixel_sampling import NotEnoughLabelsError, PixelSample, sample_pixels
from hybrid_patch.evaluate.results import MIXED_SIDE
from hybrid_patch.evaluate.settings import settings_of
from hybrid_patch.evaluate.tile_evaluator import EMBEDDING, Figures, TileEvaluator, is_mapped
from hybrid_patch.runs.atomic_files import write_bytes, write_json
from hybrid_patch.runs.progress import Show, Work, share_progress, unseen
from hybrid_patch.runs.provenance import provenance
from hybrid_patch.runs.stop_signal import Check, SharedCheck, proceed

log = logging.getLogger(__name__)

RAW, ORACLE = "raw", "oracle"
RANDOM_FEATURES = (64, 256)
TILE_WORK, FIT_WORK, SCORE_WORK, MAP_WORK, PICTURE_WORK = 1, 6, 2, 20, 4
"""What a training tile, the classifiers of a seed and kind of features, a validation tile, a map of one, and a picture
take, to tell the time that is left: about so on two cores with a small model."""

A = TypeVar("A")
B = TypeVar("B")


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
    that need none. Where whole tiles have labels, the mean embedding of a tile's pixels is classified. Tiles and
    classifiers take turns in threads; the report does not depend on how many there are. `check` is called every second
    or so, by any of them but by one at a time, `show` as the work gets on.
    """
    check = SharedCheck(check)
    timesteps = model.config.data.timesteps
    split = "val" if len(source.indices("val")) else "train"
    pooled = any(tile.pooled for tile in read_tiles(source, split, 1, timesteps))
    features_of = _features(model, source, settings, pooled, check)
    sizes, fits = _sizes(source, settings), settings.seeds * len(features_of.keys() - {ORACLE})
    work = Work(
        show,
        sizes["train"] * TILE_WORK
        + fits * FIT_WORK
        + sum(_scoring(number, settings) for number in range(sizes[split]))
        + min(sizes[split], settings.pictures) * PICTURE_WORK,
    )
    figures = Figures(model, source.class_names(), settings)
    with mapped_in_threads(model.device) as mapped:
        classifiers: dict[str, list[Fitted]] = {}
        if source.class_names() and split == "val":
            train = read_tiles(source, "train", settings.tiles, timesteps, check)
            classifiers = _fit(features_of, train, settings, model.device, check, work, mapped)
        tiles = read_tiles(source, split, settings.tiles, timesteps, check)
        with_head = split == "val" and can_be_scored(model, source.class_names())
        if model.network.head is not None and not with_head:
            log.warning("the head is not scored: these data have no validation tiles, or other classes")
        evaluator = TileEvaluator(model, source.class_names(), settings, features_of, classifiers, with_head, check)
        evaluated = mapped(evaluator.evaluate, enumerate(tiles))
        for number, of_tile in enumerate(evaluated):
            figures.merge(of_tile)
            work.done(_scoring(number, settings), f"validation tile {number + 1}")
    report = _report(model, source, settings, figures)
    drawn = draw_tiles(pictures, model, source, figures.drawn, others or {}, check)
    return report, list(work.on(drawn, PICTURE_WORK, "picture"))


def _features(
    model: TrainedModel, source: Source, settings: Evaluation, pooled: bool, check: Check
) -> dict[str, Features]:
    """The features of each kind, the embedding first."""
    made = {EMBEDDING: features.embedding_of(model, settings.pooling, check)}
    for baseline in settings.baselines:
        if not (pooled and baseline in ("means", "oracle")):  # of a whole tile, means of patches are those of raw bands
            made |= _baseline(baseline, model, source, settings, check)
    return made


def _baseline(
    name: str, model: TrainedModel, source: Source, settings: Evaluation, check: Check
) -> dict[str, Features]:
    if name == "random":
        timesteps = model.config.data.timesteps
        whitening = features.band_whitening(source, timesteps, check)
        return {
            f"random{n}": features.random_features(source.modalities, timesteps, n, whitening) for n in RANDOM_FEATURES
        }
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
    mapped: Mapped,
) -> dict[str, list[Fitted]]:
    """The classifiers of each kind of features; none if labels are too few."""

    def embedded(function: Callable[[A], B], tiles: Iterable[A]) -> Iterator[B]:
        return work.on(mapped(function, tiles), TILE_WORK, "training tile")

    def fit(job: tuple[int, PixelSample]) -> list[Fitted]:
        seed, sample = job
        return fit_classifiers(sample, seed, settings, device, check)

    learned = {kind: of_tile for kind, of_tile in features_of.items() if kind != ORACLE}
    try:
        samples = sample_pixels(learned, train, settings.train_pixels, settings.seeds, embedded)
    except NotEnoughLabelsError as error:
        log.warning("no scores: %s", error)
        return {}
    fitted: dict[str, list[Fitted]] = {kind: [] if kind in samples else [ORACLE_CLASSIFIER] for kind in features_of}
    kinds_and_seeds = [(kind, seed) for kind in learned for seed in range(settings.seeds)]
    # Each kind's pixels are let go when it has learned.
    jobs = (job for kind in learned for job in enumerate(samples.pop(kind)))
    for (kind, seed), of_seed in zip(kinds_and_seeds, mapped(fit, jobs), strict=True):
        fitted[kind] += of_seed
        work.done(FIT_WORK, f"classifiers of {kind}, seed {seed}")
    return fitted


def _scoring(number: int, settings: Evaluation) -> int:
    """The work at the validation tile of a number."""
    return SCORE_WORK + (MAP_WORK if is_mapped(number, settings) else 0)


def _sizes(source: Source, settings: Evaluation) -> dict[str, int]:
    """How many tiles of each split are embedded."""
    sizes = {split: len(source.indices(split)) for split in ("train", "val")}
    return {split: size if settings.tiles is None else min(size, settings.tiles) for split, size in sizes.items()}


def _report(model: TrainedModel, source: Source, settings: Evaluation, figures: Figures) -> dict[str, Any]:
    structure = figures.structure.result()
    report: dict[str, Any] = {
        "step": model.step,
        "processing_patch_size": model.sizes.processing,
        "output_patch_size": model.sizes.output,
        "settings": dataclasses.asdict(settings),
        "classes": list(source.class_names()),
        "tiles": _sizes(source, settings),
        "features": figures.results.features(),
        "few_labels": figures.results.few_labels(),
        "above": figures.results.above(EMBEDDING),
        "numbers": figures.numbers.report(),
        "structure": None if structure is None else structure._asdict(),
    }
    return report | {"scores": _short_scores(report)}


def _short_scores(report: Mapping[str, Any]) -> dict[str, float]:
    """The main figures, for metrics: `probe_miou`, `probe_mixed_miou`, `knn_accuracy`, `raw_miou`, `lattice_ratio` …"""
    scores: dict[str, float] = {}
    for kind, by_classifier in report["features"].items():
        names = {LINEAR: "probe", KNN: "knn", HEAD: "head"} if kind == EMBEDDING else {LINEAR: kind, KNN: f"{kind}_knn"}
        for classifier, name in names.items():
            parts = by_classifier.get(classifier, {})
            for part, metric in (("all", "miou"), ("all", "accuracy"), ("mixed", "miou")):
                if part in parts:
                    scores[f"{name}_{'mixed_' if part == 'mixed' else ''}{metric}"] = parts[part][metric]["mean"]
    scores |= {f"head_{name}": each["mean"] for name, each in (report["numbers"] or {}).items() if name != "pixels"}
    structure = {name: value for name, value in (report["structure"] or {}).items() if value is not None}
    return scores | structure

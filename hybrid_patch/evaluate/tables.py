"""The report of an evaluation as tables for the terminal."""

from typing import Any

from rich.table import Table

from hybrid_patch.evaluate.scores import PARTS
from hybrid_patch.evaluate.verdicts import in_words, verdicts

CAPTION = (
    "Means over seeds, with 95 % bootstrap intervals over groups of tiles. Mixed: pixels of 8 × 8 blocks with several "
    "classes; boundary: pixels next to another class."
)
CLASSIFIERS = {"linear": "linear probe", "knn": "20 nearest neighbours", "head": "fine-tuned head"}


def tables(report: dict[str, Any]) -> list[Table]:
    """The scores of all features, with few labels, the IoU of each class, and the figures that need no labels."""
    labelled = report["features"]
    label_tables = [_scores(report)] if labelled else []
    label_tables += [_few_labels(report["few_labels"])] if report["few_labels"] else []
    label_tables += [_class_iou(labelled, name) for name in CLASSIFIERS if name in labelled.get("embedding", ())]
    label_tables += [_numbers(report["numbers"])] if report["numbers"] else []
    return label_tables + ([_structure(report["structure"])] if report["structure"] else [])


def verdict_lines(report: dict[str, Any]) -> list[str]:
    """Which baselines the embedding beats, by classifier."""
    words = {title: in_words(verdicts(report["above"], name)) for name, title in CLASSIFIERS.items()}
    return [f"embedding, {title}: {each}" for title, each in words.items() if each]


def _scores(report: dict[str, Any]) -> Table:
    sizes = f"processed at {report['processing_patch_size']}, output at {report['output_patch_size']}"
    counts = ", ".join(f"{report['tiles'][split]} {split} tiles" for split in ("train", "val"))
    title = f"{report['run']}: {sizes}, step {report['step']}; {counts}, {report['settings']['seeds']} seeds"
    table = Table("features", "classifier", title=title, caption=CAPTION)
    for score in ("mIoU", "acc."):
        for part in PARTS:
            table.add_column(f"{score} {part}", justify="right")
    for features, by_classifier in report["features"].items():
        for classifier, scores in by_classifier.items():
            cells = [_interval(scores, part, score) for score in ("miou", "accuracy") for part in PARTS]
            table.add_row(features, classifier, *cells, style="bold" if features == "embedding" else None)
    return table


def _interval(scores: dict[str, Any], part: str, score: str) -> str:
    return "{mean:.3f} ({low:.3f}–{high:.3f})".format(**scores[part][score]) if part in scores else "–"


def _few_labels(few_labels: dict[str, Any]) -> Table:
    counts = list(next(iter(few_labels["embedding"].values())))
    table = Table("features", "classifier", title="mIoU of all pixels by labelled pixels of each class")
    for count in counts:
        table.add_column(f"{int(count):,}", justify="right")
    for features, by_classifier in few_labels.items():
        for classifier, scores in by_classifier.items():
            cells = [_interval(scores[count], "all", "miou") for count in counts]
            table.add_row(features, classifier, *cells, style="bold" if features == "embedding" else None)
    return table


def _class_iou(features: dict[str, Any], classifier: str) -> Table:
    by_features = {
        name: scores[classifier]["all"]["classes"] for name, scores in features.items() if classifier in scores
    }
    caption = "support: validation pixels that were scored"
    table = Table("class", title=f"IoU by class, {CLASSIFIERS[classifier]}", caption=caption)
    for name in ("support", *by_features):
        table.add_column(name, justify="right")
    for name, row in next(iter(by_features.values())).items():
        table.add_row(name, f"{row['support']:,}", *(f"{rows[name]['iou']:.3f}" for rows in by_features.values()))
    return table


def _numbers(numbers: dict[str, Any]) -> Table:
    table = Table("score", "value", title=f"Numbers by the fine-tuned head, {numbers['pixels']:,} validation pixels")
    for name, title in (("rmse", "root mean squared error"), ("r2", "R²")):
        table.add_row(title, "{mean:.4g} ({low:.4g}–{high:.4g})".format(**numbers[name]))
    return table


def _structure(structure: dict[str, float | None]) -> Table:
    table = Table("figure", "value", title="Without labels")
    for name, value in structure.items():
        table.add_row(name.replace("_", " "), "–" if value is None else f"{value:.3f}")
    return table

"""The report of an evaluation as tables for the terminal."""

from typing import Any

from rich.table import Table

from hybrid_patch.evaluate.scores import PARTS

CAPTION = (
    "Means over seeds, with 95 % bootstrap intervals over groups of tiles. Mixed: pixels of 8 × 8 blocks with several "
    "classes; boundary: pixels next to another class."
)


def tables(report: dict[str, Any]) -> list[Table]:
    """The scores of all features, the IoU of each class, and the figures that need no labels."""
    label_tables = [_scores(report), _class_iou(report)] if report["features"] else []
    return label_tables + ([_structure(report["structure"])] if report["structure"] else [])


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


def _class_iou(report: dict[str, Any]) -> Table:
    by_features = {
        name: scores["linear"]["all"]["classes"] for name, scores in report["features"].items() if "linear" in scores
    }
    table = Table("class", title="IoU by class, linear probe", caption="support: labelled validation pixels")
    for name in ("support", *by_features):
        table.add_column(name, justify="right")
    for name, row in next(iter(by_features.values())).items():
        table.add_row(name, f"{row['support']:,}", *(f"{rows[name]['iou']:.3f}" for rows in by_features.values()))
    return table


def _structure(structure: dict[str, float | None]) -> Table:
    table = Table("figure", "value", title="Without labels")
    for name, value in structure.items():
        table.add_row(name.replace("_", " "), "–" if value is None else f"{value:.3f}")
    return table

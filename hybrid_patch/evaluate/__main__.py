"""Score a trained run's embeddings of every pixel: on its own data, or on others (`data=rasters data.root=FOLDER`).

Classifiers of every pixel's class (linear, and the 20 nearest neighbours) learn from the frozen embeddings of training
tiles and are scored on all pixels of validation tiles, beside the same on raw bands, their 8 × 8 means, the untrained
model, and each 8 × 8 pixels' true majority.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table

from hybrid_patch.config.options import Items, Option, OutputFile, Overrides, Positional, run_command
from hybrid_patch.errors import InputError, require_extra
from hybrid_patch.runs.atomic_files import write_json
from hybrid_patch.runs.directory import EVALUATION, PICTURES


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What the command line asks for."""

    run: Annotated[Path, Positional("DIR", "the trained run")]
    output: Annotated[
        OutputFile | None,
        Positional(
            "FILE.json",
            "the report, with pictures in a folder beside it, FILE_pictures/ (default: evaluation.json in the run, and "
            "pictures in its pictures/)",
        ),
    ] = None
    compare: Annotated[Items[str], Option("[DIR,DIR]", "more runs for the pictures, as NAME:DIR to name them")] = ()
    overrides: Annotated[
        tuple[str, ...],
        Overrides(
            {
                "data=OPTION": "another source than the run's, as in hybrid-patch train: data=rasters data.root=FOLDER."
                " Its modalities are the run's, normalised as in the run; their bands are found by name",
                "data.KEY=VALUE": "a value of the source",
                "evaluation=OPTION": "full (the default: all tiles, three seeds) or default (a few tiles)",
                "evaluation.KEY=VALUE": "as evaluation.tiles=40, evaluation.knn_pixels=0, evaluation.pooling=concat",
            },
            groups=("data", "evaluation"),
        ),
    ] = ()

    def __post_init__(self) -> None:
        if len(self.others) < len(self.compare):
            raise InputError(f"compare=[{','.join(self.compare)}]: two runs of one name; write [name:DIR,other:DIR]")

    @property
    def others(self) -> dict[str, Path]:
        """The runs to compare with, by name."""
        named = [word.rpartition(":") for word in self.compare]
        return {name or Path(path).name: Path(path) for name, _, path in named}

    @property
    def report(self) -> Path:
        """The report's file."""
        return self.output or self.run / EVALUATION

    @property
    def pictures(self) -> Path:
        """The folder of the pictures."""
        return self.run / PICTURES if self.output is None else self.output.with_name(f"{self.output.stem}_pictures")


def main() -> None:
    """The command."""
    run_command("hybrid-patch evaluate", __doc__, EvaluateOptions, evaluate_command)


def evaluate_command(options: EvaluateOptions) -> None:
    """Evaluate and print the scores."""
    require_extra("eval", "sklearn", "scipy", "matplotlib")
    report = run(options)
    Console(width=None if sys.stdout.isatty() else 130).print(*tables(report))
    print(f"{options.report}, pictures in {options.pictures}")


def run(options: EvaluateOptions) -> dict[str, Any]:
    """The report, written, and the pictures."""
    from hybrid_patch.config.recipe import data_fingerprint
    from hybrid_patch.data.source import open_source
    from hybrid_patch.embed.trained_model import load
    from hybrid_patch.evaluate.evaluation import evaluate
    from hybrid_patch.evaluate.settings import settings_of
    from hybrid_patch.runs.progress import start_logging
    from hybrid_patch.runs.provenance import provenance

    start_logging(None, quiet=False)
    began = time.monotonic()
    model = load(options.run)
    others = {name: load(path) for name, path in options.others.items()}
    data, evaluation = settings_of(model, options.overrides)
    source = open_source(data)
    report, _ = evaluate(model, source, evaluation, options.pictures, others)
    report = {
        "run": str(options.run),
        "data": {"name": data.name, "root": getattr(data, "root", None), "fingerprint": data_fingerprint(data)},
        **report,
        "seconds": time.monotonic() - began,
        "machine": provenance(),
    }
    write_json(options.report, report)
    return report


def tables(report: dict[str, Any]) -> list[Table]:
    """Scores of all features, and what shows without labels."""
    sizes = f"processed at {report['processing_patch_size']}, output at {report['output_patch_size']}"
    found = []
    if report["features"]:
        tiles = report["tiles"]
        table = Table(
            title=f"{report['run']}: {sizes}, step {report['step']}; {tiles['train']} training and {tiles['val']} "
            f"validation tiles, {report['settings']['seeds']} seeds",
            caption="Means over seeds; in brackets 95 % of a bootstrap over groups of tiles. Mixed: pixels of 8 × 8 "
            "blocks with several classes; boundary: pixels beside another class.",
        )
        parts = ("all", "mixed", "boundary")
        for column in ("features", "classifier", *(f"mIoU {part}" for part in parts), *(f"acc. {p}" for p in parts)):
            table.add_column(column, justify="left" if column in ("features", "classifier") else "right")
        for features, by_classifier in report["features"].items():
            for classifier, scored in by_classifier.items():
                cells = [_shown(scored, part, score) for score in ("miou", "accuracy") for part in parts]
                style = "bold" if features == "embedding" else None
                table.add_row(features, classifier, *cells, style=style)
        found.append(table)
        found.append(_classes_table(report))
    if report["structure"]:
        table = Table("figure", "value", title="Without labels")
        for name, value in report["structure"].items():
            table.add_row(name.replace("_", " "), "–" if value is None else f"{value:.3f}")
        found.append(table)
    return found


def _classes_table(report: dict[str, Any]) -> Table:
    """IoU by class, with the linear probe."""
    scored_by = {name: scored["linear"] for name, scored in report["features"].items() if "linear" in scored}
    linear = {name: scored["all"]["classes"] for name, scored in scored_by.items()}
    table = Table(title="IoU by class, linear probe", caption="support: labelled validation pixels")
    table.add_column("class")
    table.add_column("support", justify="right")
    for name in linear:
        table.add_column(name, justify="right")
    for name, row in next(iter(linear.values())).items():
        table.add_row(name, f"{row['support']:,}", *(f"{scored[name]['iou']:.3f}" for scored in linear.values()))
    return table


def _shown(scored: dict[str, Any], part: str, score: str) -> str:
    if part not in scored:
        return "–"
    estimate = scored[part][score]
    return f"{estimate['mean']:.3f} ({estimate['low']:.3f}–{estimate['high']:.3f})"


if __name__ == "__main__":
    main()

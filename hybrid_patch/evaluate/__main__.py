"""What a run's embeddings are worth: `python -m hybrid_patch.evaluate run=<run dir> [data=rasters data.root=<folder>]`.

Classifiers of every pixel's class (linear, and the 20 nearest neighbours) learn from the frozen embeddings of training
tiles and are scored on all pixels of validation tiles, beside the same on raw bands, their 8 × 8 means, the untrained
model, and each 8 × 8 pixels' true majority.
"""

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from hybrid_patch.config.literal import output_file, refuse_flags, take_paths
from hybrid_patch.config.options import wait_briefly
from hybrid_patch.errors import InputError, input_errors_end
from hybrid_patch.runs.atomic_files import write_json

USAGE = f"""{__doc__}
  run=DIR             the run
  compare=[DIR,DIR]   more runs for the pictures, as NAME:DIR to name them
  data=OPTION         another source than the run's, as in hybrid_patch.train: data=rasters data.root=FOLDER. Its
                      modalities are the run's, normalised as in the run; their bands are found by name
  data.KEY=VALUE      a value of the source
  evaluation=OPTION   full (the default: all tiles, three seeds) or default (a few tiles)
  evaluation.KEY=VALUE  as evaluation.tiles=40, evaluation.knn_pixels=0, evaluation.pooling=concat
  output=FILE.json    the report; without it evaluation.json in the run, and pictures in its pictures/; with it they are
                      in a folder beside it, FILE_pictures/
"""
OWN_KEYS = ("run", "compare", "output", "data", "data.KEY", "evaluation", "evaluation.KEY")


class Request(NamedTuple):
    """What the command line asks for.

    Attributes:
        run: directory.
        compare: more run directories by name.
        overrides: of the run's data and evaluation.
        output: the report's file.
        pictures: the folder of the pictures.
    """

    run: Path
    compare: dict[str, Path]
    overrides: list[str]
    output: Path
    pictures: Path


def main() -> None:
    """The command."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(USAGE)
        return
    wait_briefly()
    with input_errors_end():
        request = read(sys.argv[1:])
        report = run(request)
    Console(width=None if sys.stdout.isatty() else 130).print(*tables(report))
    print(f"{request.output}, pictures in {request.pictures}")


def read(arguments: Sequence[str]) -> Request:
    """The request of a command line; raises InputError."""
    refuse_flags(arguments, OWN_KEYS)
    paths, rest = take_paths(arguments, ["run", "output"])
    if "run" not in paths:
        raise InputError("run: missing; name the directory of a run, run=DIR")
    compare: dict[str, Path] = {}
    overrides = []
    for argument in rest:
        key, _, value = argument.partition("=")
        if key == "compare":
            compare = _named(value)
        elif re.fullmatch(r"\+*(data|evaluation)(\..+)?", key):
            overrides.append(argument)
        else:
            raise InputError(f"{argument}: not a key of this command; takes: {', '.join(OWN_KEYS)}")
    folder, output = Path(paths["run"]), output_file(paths)
    if output is None:
        return Request(folder, compare, overrides, folder / "evaluation.json", folder / "pictures")
    return Request(folder, compare, overrides, output, output.with_name(f"{output.stem}_pictures"))


def _named(value: str) -> dict[str, Path]:
    """`[a,name:b]` as paths by name."""
    found = re.fullmatch(r"\[(.*)\]", value)
    words = [word.strip() for word in (found[1] if found else value).split(",") if word.strip()]
    named = [word.rpartition(":") for word in words]
    paths = {name or Path(path).name: Path(path) for name, _, path in named}
    if len(paths) < len(words):
        raise InputError(f"compare={value}: two runs of one name; write [name:DIR,other:DIR]")
    return paths


def run(request: Request) -> dict[str, Any]:
    """The report, written, and the pictures."""
    from hybrid_patch.config.recipe import data_fingerprint
    from hybrid_patch.data.source import open_source
    from hybrid_patch.embed.trained_model import load
    from hybrid_patch.evaluate.evaluation import evaluate
    from hybrid_patch.evaluate.settings import settings_of
    from hybrid_patch.runs.directory import provenance
    from hybrid_patch.runs.progress import start_logging

    start_logging(None, quiet=False)
    began = time.monotonic()
    model = load(request.run)
    others = {name: load(path) for name, path in request.compare.items()}
    data, evaluation = settings_of(model, request.overrides)
    source = open_source(data)
    report, _ = evaluate(model, source, evaluation, request.pictures, others)
    report = {
        "run": str(request.run),
        "data": {"name": data.name, "root": getattr(data, "root", None), "fingerprint": data_fingerprint(data)},
        **report,
        "seconds": time.monotonic() - began,
        "machine": provenance(),
    }
    write_json(request.output, report)
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

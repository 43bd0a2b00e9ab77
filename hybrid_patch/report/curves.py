"""Loss, and mIoU by the probe and by neighbours, over the training, reduced to what is drawn."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from hybrid_patch.report.grouping import ReportMember
from hybrid_patch.report.load_runs import Run
from hybrid_patch.report.predictions import Prediction, cumulative_flops

POINTS = 120  # of a curve: longer losses are reduced to medians of bins
MAX_CHANGES = 20  # of patch sizes that are marked: a training with more draws its sizes anew in each step
Kind = Literal["loss", "probe", "knn"]


class Curve(NamedTuple):
    """A quantity of a run, labelled by member, over `steps`, `minutes`, and `flops` where they are predicted; `changes`
    are the steps after which the patch sizes changed, and to what."""

    label: str
    kind: Kind
    x: dict[str, Float[np.ndarray, " points"]]
    y: Float[np.ndarray, " points"]
    changes: list[tuple[float, str]]


def curves_of(members: Sequence[ReportMember], predictions: Mapping[Path, Prediction]) -> list[Curve]:
    """The curves of all runs that have metrics."""
    runs = [(member.label, run) for member in members for run in member.runs]
    return [curve for label, run in runs for curve in _curves(label, run, predictions.get(run.path))]


def _curves(label: str, run: Run, prediction: Prediction | None) -> Iterator[Curve]:
    metrics = run.metrics
    x = {
        "steps": metrics["step"],
        "minutes": np.cumsum(np.nan_to_num(metrics["step_seconds"] + metrics["data_seconds"])) / 60,
    }
    if prediction is not None:
        flops = cumulative_flops(run, prediction)
        if np.isfinite(flops).all():
            x["flops"] = flops
    kinds: tuple[tuple[Kind, str], ...] = (("loss", "loss"), ("probe", "probe_miou"), ("knn", "knn_miou"))
    for kind, column in kinds:
        points = np.flatnonzero(np.isfinite(metrics[column]))
        y = metrics[column][points]
        if kind == "loss" and len(y) > 2 * POINTS:
            bins = np.array_split(np.arange(len(y)), POINTS)
            y, points = np.array([np.median(y[each]) for each in bins]), points[[each[-1] for each in bins]]
        if len(y):
            yield Curve(label, kind, {name: values[points] for name, values in x.items()}, y, _changes(run))


def _changes(run: Run) -> list[tuple[float, str]]:
    sizes = np.stack([run.metrics["processing_patch_size"], run.metrics["output_patch_size"]])
    after = np.flatnonzero((sizes[:, 1:] != sizes[:, :-1]).any(0) & np.isfinite(sizes[:, 1:]).all(0))
    if len(after) > MAX_CHANGES:
        return []
    steps = run.metrics["step"]
    return [(float(steps[i]), "{:.0f}→{:.0f}".format(*sizes[:, i + 1])) for i in after.tolist()]

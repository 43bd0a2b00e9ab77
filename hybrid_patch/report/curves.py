"""Loss, and mIoU by the probe and by neighbours, over the training, reduced to what is drawn."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from hybrid_patch.report.grouping import NONE, ReportMember, differing_keys, is_swept
from hybrid_patch.report.load_runs import Run
from hybrid_patch.report.predictions import Prediction, cumulative_flops
from hybrid_patch.runs.directory import AVERAGED

LOSS_KEYS = ("loss", "target", "masking")
"""Groups that decide what a loss is of."""
POINTS = 120  # of a curve: longer losses are reduced to medians of bins
MAX_CHANGES = 20  # of patch sizes that are marked: a training with more draws its sizes anew in each step
Kind = Literal["loss", "probe", "knn"]


class Curve(NamedTuple):
    """A quantity of a run, labelled by member, over `steps`, `minutes`, and `flops` where they are predicted; `changes`
    are the steps after which the patch sizes changed, and to what. Curves of the same `scale` share axes: what a loss
    compares, in words; empty for scores."""

    label: str
    kind: Kind
    scale: str
    x: dict[str, Float[np.ndarray, " points"]]
    y: Float[np.ndarray, " points"]
    changes: list[tuple[float, str]]


def curves_of(members: Sequence[ReportMember], predictions: Mapping[Path, Prediction]) -> list[Curve]:
    """The curves of all runs that have metrics."""
    runs = [(member, run) for member in members for run in member.runs]
    differing = [key for key in differing_keys([each.leaves for each in members]) if is_swept(key, LOSS_KEYS)]
    return [
        curve
        for member, run in runs
        for curve in _curves(member.label, run, predictions.get(run.path), _loss_scale(member, run, differing))
    ]


def _loss_scale(member: ReportMember, run: Run, differing: Sequence[str]) -> str:
    """What a run's loss compares: tokens of some sizes, and the values that the losses of members differ in."""
    sizes = run.metrics["output_patch_size"]
    outputs = sorted({int(size) for size in sizes[np.isfinite(sizes)]}, reverse=True)
    words = [f"output patch size {'→'.join(map(str, outputs))}"] if outputs else []
    return ", ".join([*words, *(f"{key}={member.leaves.get(key, NONE)}" for key in differing)])


def _curves(label: str, run: Run, prediction: Prediction | None, loss_scale: str) -> Iterator[Curve]:
    metrics = run.metrics
    x = {
        "steps": metrics["step"],
        "minutes": np.cumsum(np.nan_to_num(metrics["step_seconds"] + metrics["data_seconds"]) * metrics[AVERAGED]) / 60,
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
            scale = loss_scale if kind == "loss" else ""
            yield Curve(label, kind, scale, {name: values[points] for name, values in x.items()}, y, _changes(run))


def _changes(run: Run) -> list[tuple[float, str]]:
    sizes = np.stack([run.metrics["processing_patch_size"], run.metrics["output_patch_size"]])
    after = np.flatnonzero((sizes[:, 1:] != sizes[:, :-1]).any(0) & np.isfinite(sizes[:, 1:]).all(0))
    if len(after) > MAX_CHANGES:
        return []
    steps = run.metrics["step"]
    return [(float(steps[i]), "{:.0f}→{:.0f}".format(*sizes[:, i + 1])) for i in after.tolist()]

"""Loss and probe over the training, short enough to draw."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from hybrid_patch.report.grouping import Member
from hybrid_patch.report.load_runs import Run
from hybrid_patch.report.predictions import Plan, flops_so_far

POINTS = 120
"""Of a curve: each is the median of as many steps."""
MOST_CHANGES = 20
"""Changes of patch sizes that are marked; a training that has more draws its sizes anew in each step."""


class Curve(NamedTuple):
    """A figure of a run over its training.

    Attributes:
        label: of the run's member.
        figure: what is drawn.
        steps: at which; `x` has them and what else there is: `steps`, `minutes`, `flops`.
        changes: after which step the patch sizes changed, and to what.
    """

    label: str
    figure: Literal["loss", "probe"]
    steps: Float[np.ndarray, " points"]
    x: dict[str, Float[np.ndarray, " points"]]
    y: Float[np.ndarray, " points"]
    changes: list[tuple[float, str]]


def curves_of(members: Sequence[Member], plans: Mapping[Path, Plan]) -> list[Curve]:
    """The curves of all runs that have metrics."""
    found = []
    for member in members:
        for run in member.runs:
            if len(run.metrics["step"]):
                found += _of(run, member.label, plans.get(run.path))
    return found


def _of(run: Run, label: str, plan: Plan | None) -> list[Curve]:
    metrics = run.metrics
    x = {
        "steps": metrics["step"],
        "minutes": np.cumsum(np.nan_to_num(metrics["step_seconds"] + metrics["data_seconds"])) / 60,
    }
    if plan is not None:
        flops = flops_so_far(run, plan)
        if np.isfinite(flops).all():
            x["flops"] = flops
    changes = changes_of(run)
    found = []
    loss = np.isfinite(metrics["loss"])
    if loss.any():
        found.append(
            _curve(label, "loss", {name: values[loss] for name, values in x.items()}, metrics["loss"][loss], changes)
        )
    probed = np.isfinite(metrics["probe_miou"])
    if probed.any():
        there = {name: values[probed] for name, values in x.items()}
        found.append(_curve(label, "probe", there, metrics["probe_miou"][probed], changes))
    return found


def _curve(
    label: str,
    figure: Literal["loss", "probe"],
    x: dict[str, np.ndarray],
    y: np.ndarray,
    changes: list[tuple[float, str]],
) -> Curve:
    """Binned where there are more points than are drawn: places are bins' ends, values medians."""
    if figure == "loss" and len(y) > 2 * POINTS:
        edges = np.linspace(0, len(y), POINTS + 1).astype(int)
        y = np.array([np.median(y[a:b]) for a, b in itertools.pairwise(edges)])
        x = {name: values[edges[1:] - 1] for name, values in x.items()}
    return Curve(label, figure, x["steps"], x, y, changes)


def changes_of(run: Run) -> list[tuple[float, str]]:
    """The steps after which patch sizes changed, and to what; none if they change all the time."""
    sizes = np.stack([run.metrics["processing_patch_size"], run.metrics["output_patch_size"]])
    after = np.flatnonzero((sizes[:, 1:] != sizes[:, :-1]).any(0) & np.isfinite(sizes[:, 1:]).all(0))
    if len(after) > MOST_CHANGES:
        return []
    steps = run.metrics["step"]
    return [(float(steps[i]), "{:.0f}→{:.0f}".format(*sizes[:, i + 1])) for i in after.tolist()]

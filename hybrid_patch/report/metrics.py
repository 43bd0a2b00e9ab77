"""What a run cost and what its embeddings are worth: one number each, from its own files."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hybrid_patch.report.load_runs import Columns, Run

WARMUP, WARMUP_SHARE = 20, 0.25
"""Steps at the beginning, and after each change of patch sizes, whose time is not counted: so many, or of a short
training so large a share."""

SCORES = {
    "miou": ("embedding", "linear", "all"),
    "mixed_miou": ("embedding", "linear", "mixed"),
    "boundary_miou": ("embedding", "linear", "boundary"),
    "knn_miou": ("embedding", "knn", "all"),
}
"""Where in an evaluation a score is: features, classifier, part of the pixels."""
BASELINES = {"raw bands": ("raw", "linear"), "8 × 8 means": ("means", "linear"), "oracle": ("oracle", "majority")}
COSTS = ("step_seconds", "peak_memory_bytes", "hours")


def costs(run: Run) -> dict[str, float]:
    """`step_seconds` (the median after a warm-up; over stages of a curriculum their mean), `peak_memory_bytes`, and of
    a run that is done `hours` of all its devices. What cannot be told is left out."""
    found: dict[str, float] = {}
    seconds = step_seconds(run.metrics)
    if seconds is not None:
        found["step_seconds"] = seconds
    memory = run.metrics["peak_memory_bytes"]
    if np.isfinite(memory).any():
        found["peak_memory_bytes"] = float(np.nanmax(memory))
    total = np.nansum(run.metrics["step_seconds"]) + np.nansum(run.metrics["data_seconds"])
    if run.state == "done" and total > 0 and run.steps_done == len(run.metrics["step"]):
        runtime = run.config.get("runtime") or {}
        processes = runtime.get("processes", 1) if isinstance(runtime, Mapping) else 1
        found["hours"] = float(total) / 3600 * (processes if isinstance(processes, int) else 1)
    return {name: value for name, value in found.items() if math.isfinite(value) and value > 0}


def step_seconds(metrics: Columns) -> float | None:
    """Seconds of a step, without waiting for data; None if there are none."""
    sizes = np.stack([metrics["processing_patch_size"], metrics["output_patch_size"]])
    seconds = metrics["step_seconds"]
    if not np.isfinite(seconds).any():
        return None
    # The first steps of a training are slow whatever its stages are, and so is the first at new patch sizes.
    warmup = int(min(WARMUP, WARMUP_SHARE * len(seconds)))
    counted = np.isfinite(seconds)
    counted[:warmup] = False
    medians, counts = [], []
    for one in np.unique(sizes[:, np.isfinite(sizes).all(0)], axis=1).T:
        there = (sizes == one[:, None]).all(0)
        late = np.flatnonzero(there & counted)
        late = late[1:] if len(late) > 1 else late
        if len(late):
            medians.append(float(np.median(seconds[late])))
            counts.append(int(there.sum()))
    if not medians:
        return float(np.nanmedian(seconds))
    return float(np.average(medians, weights=counts))


def scores(run: Run) -> dict[str, float]:
    """The scores of an evaluation that it has."""
    found = {name: _mean(run.evaluation, *where) for name, where in SCORES.items()}
    return {name: value for name, value in found.items() if value is not None}


def ground_interval(run: Run) -> tuple[float, float] | None:
    """Of the mIoU: the evaluation's own bootstrap over groups of validation tiles."""
    estimate = _estimate(run.evaluation, *SCORES["miou"])
    if estimate is None or not all(_is_number(estimate.get(key)) for key in ("low", "high")):
        return None
    return float(estimate["low"]), float(estimate["high"])


def baselines(run: Run) -> dict[str, float]:
    """The mIoU of what embeddings are held against."""
    found = {name: _mean(run.evaluation, *where, "all") for name, where in BASELINES.items()}
    return {name: value for name, value in found.items() if value is not None}


def _mean(evaluation: Mapping[str, Any], *where: str) -> float | None:
    estimate = _estimate(evaluation, *where)
    value = None if estimate is None else estimate.get("mean")
    return float(value) if _is_number(value) else None  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def _estimate(evaluation: Mapping[str, Any], features: str, classifier: str, part: str) -> Mapping[str, Any] | None:
    node: Any = evaluation
    for key in ("features", features, classifier, part, "miou"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else None

"""What a run cost and how good its embeddings are: one number per measure, from the run's own files."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hybrid_patch.evaluate.verdicts import Verdicts, verdicts
from hybrid_patch.report import formatting
from hybrid_patch.report.formatting import Format
from hybrid_patch.report.load_runs import Columns, Run, nested
from hybrid_patch.runs.directory import AVERAGED

WARMUP, WARMUP_SHARE = 20, 0.25  # the first steps, whose time does not count: a number, or of few steps a share
PARTS = 8
"""Of a run, one after the other, whose step times tell how much these vary."""


class Measure(NamedTuple):
    """A number that is compared between members, how it and a difference (`scores`) or ratio (`costs`) are written."""

    title: str
    number: Format
    relative: Format
    kind: str
    lowest: float = 0.0  # that it can be


SCORE_KEYS = {
    "miou": ("embedding", "linear", "all"),
    "mixed_miou": ("embedding", "linear", "mixed"),
    "boundary_miou": ("embedding", "linear", "boundary"),
    "knn_miou": ("embedding", "knn", "all"),
    "head_miou": ("embedding", "head", "all"),
}
"""Where a score is in an evaluation: features, classifier, pixels."""
HEADS = {"head_miou": "mIoU", "head_rmse": "RMSE", "head_r2": "R²"}
"""What the page calls the scores of fine-tuned heads: of classes, and of numbers."""
FIGURES = ("lattice_ratio", "window_ratio")
"""Those of an evaluation's figures without labels that are shown."""
BASELINES = {
    "raw": "raw bands",
    "random64": "64 random features",
    "random256": "256 random features",
    "surroundings": "surroundings",
    "means": "8 × 8 means",
    "untrained": "untrained",
    "oracle": "oracle",
}
"""What the page calls the features that are scored beside embeddings."""
_SCORE = (formatting.score, formatting.signed, "scores")
MEASURES = {
    "miou": Measure("mIoU", *_SCORE),
    "mixed_miou": Measure("mIoU of mixed patches", *_SCORE),
    "boundary_miou": Measure("mIoU at boundaries", *_SCORE),
    "knn_miou": Measure("mIoU by 20-NN", *_SCORE),
    "head_miou": Measure("mIoU of the head", *_SCORE),
    "head_rmse": Measure("RMSE of the head", *_SCORE),
    "head_r2": Measure("R² of the head", *_SCORE, lowest=-math.inf),
    "lattice_ratio": Measure("lattice ratio", *_SCORE),
    "window_ratio": Measure("window ratio", *_SCORE),
    "step_seconds": Measure("step time", formatting.seconds, formatting.times, "costs"),
    "peak_memory_bytes": Measure("peak memory", formatting.memory, formatting.times, "costs"),
    "hours": Measure("hours", formatting.hours, formatting.times, "costs"),
}
MAIN_MEASURES = ("miou", "step_seconds", "peak_memory_bytes")
"""Those of the Pareto front."""
COMPARED_MEASURES = ("miou", "knn_miou", "step_seconds", "peak_memory_bytes")
"""Those of the answer, and of the comparisons with pure members."""


def costs(run: Run) -> dict[str, float]:
    """`step_seconds`, `peak_memory_bytes`, and of a finished run the `hours` of all its devices, as far as known."""
    memory = run.metrics["peak_memory_bytes"]
    values = {
        "step_seconds": step_seconds(run.metrics),
        "peak_memory_bytes": float(np.max(memory, initial=0, where=np.isfinite(memory))),
    }
    steps = run.metrics[AVERAGED]
    if run.state == "done" and run.steps_done == steps.sum():
        processes = nested(run.config, "runtime", "processes")
        total = np.nansum(run.metrics["step_seconds"] * steps) + np.nansum(run.metrics["data_seconds"] * steps)
        values["hours"] = float(total) / 3600 * (processes if isinstance(processes, int) else 1)
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value) and value > 0}


def step_seconds(metrics: Columns) -> float | None:
    """Seconds of a step without its wait for data: the median after a warm-up, averaged over a curriculum's stages."""
    medians = _medians(metrics, 1)
    return medians[0] if medians else None


def step_seconds_of_parts(run: Run) -> list[float]:
    """The same for up to `PARTS` parts of a run, each of all stages."""
    return [x for x in _medians(run.metrics, PARTS) if x > 0]


def _medians(metrics: Columns, parts: int) -> list[float]:
    sizes = np.stack([metrics["processing_patch_size"], metrics["output_patch_size"]])
    seconds = metrics["step_seconds"]
    timed = np.isfinite(seconds)
    if not timed.any():
        return []
    # The first steps of a training are always slow, and so is the first step at new patch sizes.
    timed[: int(min(WARMUP, WARMUP_SHARE * len(seconds)))] = False
    of_stages, weights = [], []
    for stage_sizes in np.unique(sizes[:, np.isfinite(sizes).all(0)], axis=1).T:
        in_stage = (sizes == stage_sizes[:, None]).all(0)
        steps = np.flatnonzero(in_stage & timed)
        if len(steps):
            of_stages.append(seconds[steps[1:] if len(steps) > 1 else steps])
            weights.append(in_stage.sum())
    if not of_stages:
        return [float(np.nanmedian(seconds))]
    parts = min(parts, *map(len, of_stages))
    medians = [[np.median(part) for part in np.array_split(stage, parts)] for stage in of_stages]
    return [float(x) for x in np.average(medians, axis=0, weights=weights)]


def scores(run: Run) -> dict[str, float]:
    figures = {name: nested(run.evaluation, "structure", name) for name in FIGURES}
    figures |= {f"head_{name}": nested(run.evaluation, "numbers", name, "mean") for name in ("rmse", "r2")}
    return _mious(run, SCORE_KEYS) | _numbers(figures)


def baselines(run: Run) -> dict[str, dict[str, float]]:
    """The `miou` and `knn_miou` of each of `BASELINES`, by its title."""
    values = {}
    for kind, title in BASELINES.items():
        linear = "majority" if kind == "oracle" else "linear"
        values[title] = _mious(run, {"miou": (kind, linear, "all"), "knn_miou": (kind, "knn", "all")})
    return {title: of_kind for title, of_kind in values.items() if of_kind}


def beaten(run: Run, classifier: str) -> Verdicts:
    """Which baselines the run beats by a classifier; none where its evaluation cannot be read as one."""
    try:
        return verdicts(run.evaluation.get("above", {}), classifier)
    except (AttributeError, KeyError, TypeError):
        return {}


def tile_interval(run: Run) -> tuple[float, float] | None:
    """The interval of the mIoU by the evaluation's bootstrap over groups of validation tiles."""
    low, high = (_mious(run, SCORE_KEYS, key).get("miou") for key in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _mious(run: Run, keys: Mapping[str, tuple[str, ...]], part: str = "mean") -> dict[str, float]:
    return _numbers({name: nested(run.evaluation, "features", *path, "miou", part) for name, path in keys.items()})


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    return {name: float(x) for name, x in values.items() if isinstance(x, float | int) and math.isfinite(x)}

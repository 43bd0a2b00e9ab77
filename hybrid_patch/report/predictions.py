"""Predicted FLOPs and memory of runs, from their configs, to be shown beside what was measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from omegaconf import OmegaConf

from hybrid_patch.config.compose import checked, held_to_schema
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sources import Sources
from hybrid_patch.errors import InputError
from hybrid_patch.report.load_runs import Run, one_line
from hybrid_patch.runs.directory import AVERAGED


class Prediction(NamedTuple):
    """What a run was expected to cost: FLOPs of a step by processing and output patch size, memory of a process."""

    flops: dict[tuple[int, int], int]
    peak_memory_bytes: int
    parameters: int


def predict_runs(runs: Sequence[Run]) -> tuple[dict[Path, Prediction], dict[Path, str]]:
    """The predictions of runs by directory, and why others have none."""
    from hybrid_patch.config.curriculum import all_sizes
    from hybrid_patch.cost.predict import predict_sweep

    configs: dict[str, Config | InputError] = {}
    keys = {}
    for run in runs:
        # Checking a config takes time: runs that differ in nothing that costs depend on share one.
        relevant = {key: x for key, x in run.config.items() if key not in ("seed", "run_dir", "sweep_name", "logger")}
        key = keys[run.path] = json.dumps(relevant, sort_keys=True, default=str)
        if key not in configs:
            configs[key] = _config(run)
    try:
        by_key = dict(zip(configs, predict_sweep(list(configs.values()), growth=False, processes=1).runs, strict=True))
    except Exception as error:  # a failure of the planner must not prevent a report
        return {}, {run.path: f"the planner failed ({one_line(error)})" for run in runs}
    predicted: dict[Path, Prediction] = {}
    failed: dict[Path, str] = {}
    for path, key in keys.items():
        prediction = by_key[key]
        if isinstance(prediction, InputError):
            failed[path] = str(prediction)
            continue
        config, flops = prediction.config, {}
        for sizes, cost in zip(all_sizes(config.curriculum), prediction.costs, strict=True):
            of_process = sum(sum(parts.values()) for parts in cost.record.flops.values())
            flops[sizes.processing, sizes.output] = config.runtime.processes * of_process
        predicted[path] = Prediction(flops, prediction.peak(), prediction.parameters)
    return predicted, failed


def cumulative_flops(run: Run, prediction: Prediction) -> Float[np.ndarray, " steps"]:
    """FLOPs from the run's beginning to each line of its metrics."""
    sizes = zip(run.metrics["processing_patch_size"], run.metrics["output_patch_size"], strict=True)
    return np.cumsum(np.array([prediction.flops.get(pair, np.nan) for pair in sizes], float) * run.metrics[AVERAGED])


def flops_per_step(run: Run, prediction: Prediction) -> float | None:
    """The mean over the run's steps so far; None if there are none."""
    total = cumulative_flops(run, prediction)
    return float(total[-1] / run.metrics[AVERAGED].sum()) if len(total) and np.isfinite(total[-1]) else None


def _config(run: Run) -> Config | InputError:
    if not run.config:
        return InputError("there is no config.yaml that can be read")
    try:
        return checked(held_to_schema(OmegaConf.create(dict(run.config)), Sources()))
    except InputError as error:
        return error
    except Exception as error:  # YAML, but no config
        return InputError(f"config.yaml is no config ({one_line(error)})")

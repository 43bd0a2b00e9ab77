"""What was planned for runs, beside what was measured: FLOPs and memory, from their configs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import OmegaConf

from hybrid_patch.config.compose import Sources, checked, held_to_schema
from hybrid_patch.config.schema import Config
from hybrid_patch.errors import InputError
from hybrid_patch.report.load_runs import Run


class Plan(NamedTuple):
    """What a run was expected to take.

    Attributes:
        flops: of a step, by processing and output patch size.
        peak_memory_bytes: of a process.
        parameters: trainable numbers.
    """

    flops: dict[tuple[int, int], int]
    peak_memory_bytes: int
    parameters: int


def plans(runs: Sequence[Run]) -> tuple[dict[Path, Plan], dict[Path, str]]:
    """The plans of runs by directory, and of those that have none, why. Equal shapes are worked out once."""
    from hybrid_patch.config.curriculum import all_sizes
    from hybrid_patch.cost.predict_sweep import predict_each

    configs: dict[str, Config | InputError] = {}
    keys = {}
    for run in runs:
        # Composing takes its time: runs that differ in nothing that a plan depends on share a config.
        kept = {key: x for key, x in run.config.items() if key not in ("seed", "run_dir", "sweep_name", "logger")}
        keys[run.path] = json.dumps(kept, sort_keys=True, default=str)
        if keys[run.path] not in configs:
            configs[keys[run.path]] = _config(run)
    try:
        predicted = predict_each(list(configs.values()), growth=False, processes=1)[0]
    except Exception as error:  # what the planner cannot do is no reason to have no report
        return {}, {run.path: f"the planner failed ({' '.join(str(error).split())[:200]})" for run in runs}
    found = dict(zip(configs, predicted, strict=True))
    planned: dict[Path, Plan] = {}
    without: dict[Path, str] = {}
    for run in runs:
        prediction = found[keys[run.path]]
        if isinstance(prediction, InputError):
            without[run.path] = str(prediction)
            continue
        flops = {
            (sizes.processing, sizes.output): flops_of_one * prediction.config.runtime.processes
            for sizes, flops_of_one in zip(
                all_sizes(prediction.config.curriculum),
                (sum(sum(parts.values()) for parts in cost.flops.values()) for cost in prediction.costs),
                strict=True,
            )
        }
        planned[run.path] = Plan(flops, prediction.peak(), prediction.parameters)
    return planned, without


def flops_so_far(run: Run, plan: Plan) -> np.ndarray:
    """Of each line of the metrics, FLOPs from the run's beginning."""
    coarse, fine = run.metrics["processing_patch_size"], run.metrics["output_patch_size"]
    each = np.array([plan.flops.get(sizes, np.nan) for sizes in zip(coarse.tolist(), fine.tolist(), strict=True)])
    return np.cumsum(each)


def flops_per_step(run: Run, plan: Plan) -> float | None:
    """The mean over the steps that were made."""
    total = flops_so_far(run, plan)
    return float(total[-1] / len(total)) if len(total) and np.isfinite(total[-1]) else None


def _config(run: Run) -> Config | InputError:
    plain: Mapping[str, object] = run.config
    if not plain:
        return InputError("there is no config.yaml that can be read")
    try:
        return checked(held_to_schema(OmegaConf.create(dict(plain)), Sources()))
    except InputError as error:
        return error
    except Exception as error:  # a file that is YAML, but no config: its run has no plan, and the others have theirs
        return InputError(f"config.yaml is no config ({' '.join(str(error).split())[:200]})")

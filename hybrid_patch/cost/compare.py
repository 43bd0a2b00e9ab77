"""Measure variants side by side: steps in turns, memory of each in its own process, and their ratios."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_patch.config.recipe import recipe
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.devices import Device, this_device
from hybrid_patch.cost.isolated_memory import FailedAlone, memory_alone
from hybrid_patch.cost.predict import Prediction, predict
from hybrid_patch.cost.step import Step
from hybrid_patch.cost.timing import Log, in_turns, interleave, intervals, ratios

AGAIN = " again"
"""Suffix of the variant that is timed twice, against itself."""


def compare(configs: Mapping[str, Config], rounds: int, warmup: int, limit_s: float, log: Log) -> dict[str, Any]:
    """Measure variants: the part of a benchmark's report that is about them.

    Every variant has two instances, which take turns in random order: where an instance's memory happens to be makes a
    few percent of a step's time, and belongs to the spread. The first variant that runs is timed twice in each round,
    under two names. The ratio of the two, `null`, shows how far apart two measurements of the same thing are here.

    Returns:
        `config` the recipes; `variants` by name: seconds (median, low, high) of the step and its phases, and of the
        first step, in which compilers work, bytes, pixels and FLOPs per second, the share of what this machine does in
        a product of matrices, what was `planned` (bytes; seconds by the roofline of this machine) and the
        `planned_error` of it, planned / measured - 1; or `failed` and why. `ratios` by pair; `null`.
    """
    variants = {name: _memory(name, config, limit_s, log) for name, config in configs.items()}
    report: dict[str, Any] = {
        "config": {name: recipe(config) for name, config in configs.items()},
        "rounds": rounds,
        "variants": variants,
        "ratios": {},
    }
    steps = {name: (Step(configs[name]), Step(configs[name])) for name, row in variants.items() if "failed" not in row}
    if not steps:
        return report
    runs = {name: in_turns([step.run for step in pair]) for name, pair in steps.items()}
    for name, run in runs.items():
        log(f"first step: {name}")
        variants[name]["first_step_seconds"] = sum(run().values())
    first = next(iter(runs))
    seconds = interleave(runs | {first + AGAIN: runs[first]}, rounds, warmup, log)
    device, step_ratios = this_device(), ratios(seconds)
    for name, (step, _) in steps.items():
        row = variants[name] | intervals(seconds[name], "step") | {"parameters": step.parameters}
        row["pixels_per_second"] = step.pixels / row["step_seconds"]["median"]
        variants[name] = row | _planned(predict(configs[name]), device, row)
    for a, b in itertools.permutations(steps, 2):
        memory = variants[a]["peak_memory_bytes"] / variants[b]["peak_memory_bytes"]
        report["ratios"][f"{a}/{b}"] = {"step_seconds": step_ratios[f"{a}/{b}"], "peak_memory_bytes": memory}
    report["null"] = {"variant": first, "step_seconds": step_ratios[f"{first}/{first}{AGAIN}"]}
    return report


def _memory(name: str, config: Config, limit_s: float, log: Log) -> dict[str, Any]:
    """A variant's peak memory, or why it failed."""
    log(f"memory: {name}")
    try:
        peak, reserved = memory_alone(config, limit_s)
    except FailedAlone as error:
        log(f"{name}: {error}")
        return {"failed": str(error)}
    return {"peak_memory_bytes": peak} | ({} if reserved is None else {"reserved_memory_bytes": reserved})


def _planned(prediction: Prediction, device: Device, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the planner predicts for a variant, and how far that is from the measurements in its row."""
    seconds, flops = row["step_seconds"]["median"], prediction.flops_per_step()
    timed = {"peak_memory_bytes": row["peak_memory_bytes"], "step_seconds": seconds}
    planned = {"peak_memory_bytes": prediction.peak(), "step_seconds": prediction.seconds(device)}
    peak_flops = device.bf16 if prediction.config.runtime.precision == "bf16-mixed" else device.fp32
    return {
        "planned": planned,
        "planned_error": {figure: planned[figure] / value - 1 for figure, value in timed.items()},
        "flops_per_step": flops,
        "flops_per_second": flops / seconds,
        "share_of_peak_flops": flops / seconds / peak_flops,
    }


def exponents(values: Sequence[str], points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """How the step time and memory of every variant grow with a swept value: the exponents of power laws.

    Only values above 0 at which a variant ran count; a variant with fewer than two of them has no row.
    """
    rows = {}
    for name in points[0]["variants"]:
        at_sizes = zip(map(_size, values), (point["variants"][name] for point in points), strict=True)
        usable = [(size, row) for size, row in at_sizes if size is not None and "failed" not in row]
        if len(usable) >= 2:
            sizes = [size for size, _ in usable]
            rows[name] = {
                "step_seconds": slope(sizes, [row["step_seconds"]["median"] for _, row in usable]),
                "peak_memory_bytes": slope(sizes, [row["peak_memory_bytes"] for _, row in usable]),
            }
    return rows


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The least-squares slope of log cost against log size."""
    return statistics.linear_regression([*map(math.log, sizes)], [*map(math.log, costs)]).slope


def _size(value: str) -> float | None:
    """A swept value as a number above 0; None if it is none."""
    try:
        return float(value) if 0 < float(value) < math.inf else None
    except ValueError:
        return None

"""Variants side by side: the same steps in turns, memory of each by itself, and their ratios."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from hybrid_patch.config.recipe import recipe
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.devices import Device, this_device
from hybrid_patch.cost.isolated_memory import FailedAlone, memory_alone
from hybrid_patch.cost.predict import Prediction, predict
from hybrid_patch.cost.step import Step
from hybrid_patch.cost.timing import in_turns, interleave, interval, ratio, totals_of

PARTS = ("forward", "backward", "optimizer")
AGAIN = " again"
"""Behind the name of the variant that is timed twice, against itself."""


def compare(
    configs: Mapping[str, Config], rounds: int, warmup: int, limit_s: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure variants: the part of a report that is about them.

    Every variant has two instances, which take turns in random order: where the memory of one happens to lie makes a
    few percent of a step's time, and belongs to the spread. Of the first variant that can be run both are timed in each
    round, under two names. Their ratio, `null`, shows how far apart two measurements of the same thing lie here.

    Returns:
        `config` the recipes; `variants` by name: seconds (median, low, high) of the step and its parts, and of the
        first step, in which compilers work, bytes, pixels and FLOPs per second, the share of what this machine does in
        a product of matrices, what was `planned` (bytes; seconds by the roofline of this machine) and the
        `planned_error` of it, planned / measured - 1; or `failed` and why. `ratios` by pair; `null`.
    """
    variants: dict[str, dict[str, Any]] = {}
    for name, config in configs.items():
        say(f"memory: {name}")
        try:
            peak, reserved = memory_alone(config, limit_s)
            variants[name] = {"peak_memory_bytes": peak}
            if reserved is not None:
                variants[name]["reserved_memory_bytes"] = reserved
        except FailedAlone as error:
            say(f"{name}: {error}")
            variants[name] = {"failed": str(error)}
    able = [name for name, row in variants.items() if "failed" not in row]
    report: dict[str, Any] = {
        "config": {name: recipe(config) for name, config in configs.items()},
        "rounds": rounds,
        "variants": variants,
        "ratios": {},
    }
    if not able:
        return report
    steps = {name: (Step(configs[name]), Step(configs[name])) for name in able}
    runs = {name: in_turns([step.run for step in pair]) for name, pair in steps.items()}
    twice = able[0] + AGAIN
    firsts = {}
    for name, run in runs.items():
        say(f"first step: {name}")
        firsts[name] = sum(run().values())
    seconds = interleave(runs | {twice: runs[able[0]]}, rounds, warmup, say)
    totals = totals_of(seconds)
    for name, (step, _) in steps.items():
        variants[name] |= {
            "first_step_seconds": firsts[name],
            "step_seconds": interval(totals[name])._asdict(),
            **{f"{part}_seconds": interval([parts[part] for parts in seconds[name]])._asdict() for part in PARTS},
            "pixels_per_second": step.pixels / statistics.median(totals[name]),
            "parameters": step.parameters,
        }
    device = this_device()
    for name in able:
        variants[name] |= _planned(predict(configs[name]), device, variants[name])
    report["ratios"] = {
        f"{a}/{b}": {
            "step_seconds": ratio(totals[a], totals[b])._asdict(),
            "peak_memory_bytes": variants[a]["peak_memory_bytes"] / variants[b]["peak_memory_bytes"],
        }
        for a in able
        for b in able
        if a != b
    }
    report["null"] = {"variant": able[0], "step_seconds": ratio(totals[able[0]], totals[twice])._asdict()}
    return report


def _planned(prediction: Prediction, device: Device, measured: Mapping[str, Any]) -> dict[str, Any]:
    """What the planner says of a variant, beside what was measured of it."""
    seconds = measured["step_seconds"]["median"]
    flops = prediction.flops_per_step()
    planned = {"peak_memory_bytes": prediction.peak(), "step_seconds": prediction.seconds(device)}
    peak_flops = device.bf16 if prediction.config.runtime.precision == "bf16-mixed" else device.fp32
    return {
        "planned": planned,
        "planned_error": {
            "peak_memory_bytes": planned["peak_memory_bytes"] / measured["peak_memory_bytes"] - 1,
            "step_seconds": planned["step_seconds"] / seconds - 1,
        },
        "flops_per_step": flops,
        "flops_per_second": flops / seconds,
        "share_of_peak_flops": flops / seconds / peak_flops,
    }

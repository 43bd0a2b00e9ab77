"""The plan of a sweep as plain values, as `plan` writes it to JSON: a row for each member."""

import dataclasses
from typing import TYPE_CHECKING, Any

from hybrid_patch.cost.devices import RESERVE, Device
from hybrid_patch.cost.formatting import format_bytes
from hybrid_patch.cost.weak_scaling import Scaling, scaling_rows
from hybrid_patch.runs.provenance import provenance

if TYPE_CHECKING:
    from hybrid_patch.cost.predict import Prediction
    from hybrid_patch.cost.predict_sweep import PlannedRun, PlannedSweep


def plan_report(
    sweep: "PlannedSweep", device: Device | None = None, max_memory: int | None = None, scaling: Scaling | None = None
) -> dict[str, Any]:
    """The plan of a sweep.

    Args:
        sweep: predicted with `growth` if there is a device or a limit.
        device: adds whether members fit, the largest batch, and times.
        max_memory: bytes per process; members that need more are refused.
        scaling: adds weak scaling; needs a device.
    """
    arguments = [set(run.arguments) for run in sweep.runs]
    common = set.intersection(*arguments) if len(arguments) > 1 else set()
    members = [_row(run, common, device, max_memory, scaling) for run in sweep.runs]
    hours = [row["gpu_hours"] for row in members if row.get("gpu_hours") is not None]
    measured_step = None if scaling is None else scaling.step
    return {
        "machine": provenance(),
        "device": None if device is None else device.__dict__,
        "max_memory": max_memory,
        "links": None if scaling is None else dataclasses.asdict(scaling.links),
        "computing": "the roofline's step" if measured_step is None else f"a step of {measured_step:g} s",
        "overrides": [argument for argument in sweep.runs[0].arguments if argument in common],
        "members": members,
        "distinct_shapes": sweep.distinct_shapes,
        "invalid": sum(bool(row["error"]) for row in members),
        "refused": sum(bool(row["refused"]) for row in members),
        "gpu_hours": sum(hours) if hours else None,
    }


def _row(
    run: "PlannedRun", common: set[str], device: Device | None, max_memory: int | None, scaling: Scaling | None
) -> dict[str, Any]:
    """A member's row; `common` are the arguments that all members share."""
    name = " ".join(argument for argument in run.arguments if argument not in common) or "as configured"
    row: dict[str, Any] = {"member": name, "error": run.error, "refused": ""}
    prediction = run.prediction
    if prediction is None:
        return row
    peak, dominant = prediction.peak(), prediction.worst.dominant()
    limits = [*([] if max_memory is None else [max_memory]), *([] if device is None else [device.memory - RESERVE])]
    batch = prediction.largest_batch(min(limits)) if limits else None
    if max_memory is not None and peak > max_memory:
        hint = f"trainer.batch_size up to {batch}" if batch else "a smaller model, tile or number of timesteps"
        row["refused"] = (
            f"needs {format_bytes(peak)}, more than max_memory={format_bytes(max_memory)}: {dominant}; try {hint}"
        )
    return row | {
        "parameters": prediction.parameters,
        "parameters_of": prediction.parameters_of,
        "tokens": prediction.worst.tokens._asdict(),
        "flops": prediction.flops(),
        "flops_per_step": prediction.flops_per_step(),
        "memory_bytes": prediction.memory(),
        "peak_memory_bytes": peak,
        "dominant": dominant,
        "stages": _stages(prediction, device),
        "fits": peak <= min(limits) if limits else None,
        "largest_batch": batch,
        "step_seconds": None if device is None else prediction.seconds(device),
        "gpu_hours": None if device is None else prediction.hours(device),
        "scaling": None
        if scaling is None or device is None
        else scaling_rows(prediction.config, prediction.parameters, prediction.seconds(device), scaling),
    }


def _stages(prediction: "Prediction", device: Device | None) -> list[dict[str, Any]]:
    """A row for each stage of a member's curriculum."""
    return [
        {
            "processing_patch_size": stage.processing_patch_size,
            "output_patch_size": stage.output_patch_size,
            "share": stage.share,
            "tokens": cost.tokens._asdict(),
            "flops": cost.flops,
            "memory_bytes": cost.memory,
            "step_seconds": None if device is None else cost.seconds(device),
        }
        for stage, cost in zip(prediction.config.curriculum.stages, prediction.costs, strict=True)
    ]

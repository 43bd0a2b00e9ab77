"""Predict what a run takes from its config alone: parameters, tokens, FLOPs, memory, and time on a device.

`predict(config)` predicts one run. `predict_sweep` predicts many, and works out stages of equal shapes (`Stage.key`)
only once.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.config.curriculum import PatchSizes, all_sizes, tile_for
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config, Data
from hybrid_patch.cost.devices import Device
from hybrid_patch.cost.fake_step import Tokens, fake_steps
from hybrid_patch.cost.recorder import MemoryClass, Phase, Record
from hybrid_patch.cost.sharded_memory import additional_memory, process_memory
from hybrid_patch.data.source import open_source
from hybrid_patch.model.profiling import PARTS

CLASSES: tuple[MemoryClass, ...] = ("parameters", "gradients", "optimizer", "activations", "temporary")
PASSES: tuple[Phase, ...] = ("forward", "backward")
BATCHES = 2.0 ** np.arange(32)
"""Numbers of samples for which the moment of highest memory is looked up."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run: everything its costs depend on.

    Attributes:
        config: of the run.
        modalities: of its data.
        sizes: patch sizes.
        share: fraction of the run's steps.
    """

    config: Config
    modalities: Mapping[str, Modality]
    sizes: PatchSizes
    share: float

    @property
    def samples(self) -> int:
        """Samples per step and process."""
        return self.config.trainer.batch_size // self.config.runtime.world_size

    def key(self) -> str:
        """Cache key: equal keys mean identical tensor shapes. The config without the fields that change no shape."""
        plain: dict[str, Any] = dataclasses.asdict(self.config)
        for name in ("seed", "patch", "optimizer", "evaluation", "logger", "run_dir", "sweep_name"):
            del plain[name]
        plain["curriculum"] = sorted(set(all_sizes(self.config.curriculum)))
        plain["tile"] = tile_for(self.config, self.sizes)
        plain["model"] = {name: value for name, value in plain["model"].items() if name != "name"}
        plain["trainer"] = self.samples
        plain["data"] = plain["data"]["timesteps"]
        plain["loss"] = {name: _without_values(value) for name, value in plain["loss"].items() if name != "target_seed"}
        runtime = self.config.runtime
        plain["runtime"] = (runtime.precision, runtime.accumulate, runtime.gradient_checkpointing)
        modalities = {name: dataclasses.asdict(modality) for name, modality in self.modalities.items()}
        for modality in modalities.values():
            for name in ("gsd", "mean", "std", "files"):
                del modality[name]
        return json.dumps([plain, modalities, self.sizes])


def _without_values(option: Any) -> Any:
    """A term of the loss without its weight and temperature: whether it is computed, and its sizes."""
    return option | {"weight": option["weight"] > 0, "temperature": None} if isinstance(option, dict) else option


@dataclasses.dataclass(frozen=True)
class StageCost:
    """The cost of one step of a stage, for each process.

    Attributes:
        tokens: of a sample in one view.
        parameters: trainable parameters by module.
        flops: by pass and part.
        work, repeats: what its operations do (`Record`).
        memory: bytes at the peak, by class.
        part_memory: bytes of activations and temporary tensors at the peak, by part.
        growth: `[n, 2]` a and b of lines `a + b·samples`; their maximum is the peak memory of that many samples.
    """

    tokens: Tokens
    parameters: dict[str, int]
    flops: dict[str, dict[str, int]]
    work: Float[np.ndarray, "n 3"]
    repeats: Int[np.ndarray, " n"]
    memory: dict[MemoryClass, int]
    part_memory: dict[str, int]
    growth: Float[np.ndarray, "lines 2"] | None

    @property
    def peak(self) -> int:
        """Bytes of all classes."""
        return sum(self.memory.values())

    def dominant(self) -> str:
        """The largest class of memory; for activations and temporary tensors also the part that has most of them."""
        largest = max(self.memory, key=lambda kind: self.memory[kind])
        if largest not in ("activations", "temporary"):
            return largest
        return f"{largest}, most in the {max(self.part_memory, key=lambda part: self.part_memory[part])}"

    def seconds(self, device: Device) -> float:
        """The roofline: an operation takes the longer of its FLOPs and its bytes at the device's peaks."""
        flops, bytes_, short = self.work.T
        peak = np.where(short > 0, device.bf16, device.fp32)
        return float(np.maximum(flops / peak, bytes_ / device.bandwidth) @ self.repeats)

    def largest_batch(self, memory: float | int) -> int:
        """The most samples per process whose peak is at most `memory` bytes; 0 if not even one fits."""
        assert self.growth is not None
        fixed, per_sample = self.growth.T
        if (fixed[per_sample <= 0] > memory).any():
            return 0
        growing = per_sample > 0
        return max(int(((memory - fixed[growing]) / per_sample[growing]).min()), 0)


def stage_cost(stage: Stage, growth: bool) -> StageCost:
    """Cost of a stage, from a step on fake tensors.

    Args:
        growth: also how memory grows with the batch, which takes a second step.
    """
    samples = stage.samples
    records, tokens, parameters = fake_steps(
        stage.config, stage.modalities, stage.sizes, [samples, 2 * samples] if growth else [samples]
    )
    record = records[0]
    flops: dict[str, dict[str, int]] = {
        name: {part: record.flops.get((name, part), 0) for part in PARTS} for name in PASSES
    }
    memory = {kind: record.peak.get(kind, 0) for kind in CLASSES}
    lines = _growth(record, records[1], samples) if growth else None
    return StageCost(tokens, parameters, flops, record.work, record.repeats, memory, record.peak_parts, lines)


def _growth(single: Record, double: Record, samples: int) -> Float[np.ndarray, "lines 2"]:
    """How memory grows with the batch, from a step of `samples` and one of twice as many.

    If both allocate in the same order, every moment of the step gives a line, and those that are the maximum for some
    batch are returned. If not (a loss in chunks), the two peaks give one line. The optimizer's part is constant.
    """
    less, more = (record.allocated[: record.passes].astype(float) for record in (single, double))
    optimizer = single.allocated[single.passes :].max(initial=0)
    if len(less) != len(more):
        less, more = less.max(keepdims=True), more.max(keepdims=True)
    per_sample = (more - less) / samples
    lines = np.stack([less - per_sample * samples, per_sample], axis=1)
    lines = np.concatenate([lines, [[float(optimizer), 0.0]]])
    highest = (lines[:, :1] + lines[:, 1:] * BATCHES).argmax(0)
    return lines[np.unique(highest)]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The predicted cost of a run: FLOPs and hours of all its processes, memory of one of them.

    Attributes:
        config: of the run.
        costs: of its stages, in order.
    """

    config: Config
    costs: tuple[StageCost, ...]

    @property
    def worst(self) -> StageCost:
        """The stage with the highest memory."""
        return max(self.costs, key=lambda cost: cost.peak)

    @property
    def parameters_of(self) -> dict[str, int]:
        """Trainable parameters by module (`TrainingModule.parameter_counts`)."""
        return self.costs[0].parameters

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(self.parameters_of.values())

    def flops(self) -> dict[str, dict[str, int]]:
        """FLOPs of a step by pass and part, averaged over the run's steps."""
        processes = self.config.runtime.world_size
        return {
            name: {part: round(processes * self._mean([c.flops[name][part] for c in self.costs])) for part in PARTS}
            for name in PASSES
        }

    def flops_per_step(self) -> int:
        """FLOPs of both passes and all parts."""
        return sum(sum(parts.values()) for parts in self.flops().values())

    def memory(self) -> dict[MemoryClass, int]:
        """Bytes at the peak of the worst stage, by class."""
        return process_memory(self.worst.memory, self.config, self.parameters)

    def peak(self) -> int:
        """Bytes of all classes."""
        return sum(self.memory().values())

    def largest_batch(self, memory: float | int) -> int:
        """The most samples per step, of all processes, for which no stage exceeds `memory` bytes per process."""
        more = additional_memory(self.worst.memory, self.config, self.parameters)
        return min(cost.largest_batch(memory - more) for cost in self.costs) * self.config.runtime.world_size

    def seconds(self, device: Device) -> float:
        """Seconds of a step by the roofline, averaged over the run's steps."""
        return float(self._mean([cost.seconds(device) for cost in self.costs]))

    def hours(self, device: Device) -> float:
        """Device hours of the run's training, by the roofline."""
        return self.seconds(device) * self.config.trainer.steps * self.config.runtime.world_size / 3600

    def _mean(self, values: Sequence[float | int]) -> float | int:
        if len(values) == 1:
            return values[0]  # a whole number stays one
        shares = [stage.share for stage in self.config.curriculum.stages]
        return sum(share * value for share, value in zip(shares, values, strict=True))


def modalities_of(data: Data) -> Mapping[str, Modality]:
    """The modalities of a source; its files are opened only if none is declared. Raises InputError."""
    return data.modalities or open_source(data).modalities


def stages_of(config: Config, modalities: Mapping[str, Modality]) -> list[Stage]:
    """The stages of a run."""
    curriculum = config.curriculum
    return [
        Stage(config, modalities, sizes, stage.share)
        for stage, sizes in zip(curriculum.stages, all_sizes(curriculum), strict=True)
    ]


def predict(config: Config, growth: bool = False) -> Prediction:
    """Predict what a run takes; about a second.

    Args:
        growth: also how memory grows with the batch (for `largest_batch`).

    Raises InputError for data that cannot be opened.
    """
    stages = stages_of(config, modalities_of(config.data))
    return Prediction(config, tuple(stage_cost(stage, growth) for stage in stages))

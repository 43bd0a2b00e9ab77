"""What a run will take, from its config alone: parameters, tokens, FLOPs, memory, and time on a device.

`predict(config)` is all that another command needs. A planner of many runs makes their `stages` itself, since stages of
equal shapes (`Stage.key`) need be worked out only once.
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
from hybrid_patch.cost import sharded_memory
from hybrid_patch.cost.devices import Device
from hybrid_patch.cost.fake_step import Tokens, fake_steps
from hybrid_patch.cost.recorder import MemoryClass, Phase, Record
from hybrid_patch.data.source import open_source
from hybrid_patch.model.profiling import PARTS

CLASSES: tuple[MemoryClass, ...] = ("parameters", "gradients", "optimizer", "activations", "temporary")
PASSES: tuple[Phase, ...] = ("forward", "backward")
BATCHES = 2.0 ** np.arange(32)
"""Samples at which it is looked when a step's memory is highest."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run: all that its costs depend on.

    Attributes:
        config: of the run.
        modalities: of its data.
        sizes: patch sizes.
        share: of the run's steps.
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
        """Equal for stages of equal shapes: the config without what is known to change no shape."""
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
    """Of a term of the loss, whether it is computed, and its sizes."""
    return option | {"weight": option["weight"] > 0, "temperature": None} if isinstance(option, dict) else option


@dataclasses.dataclass(frozen=True)
class StageCost:
    """What a step of a stage takes of each process.

    Attributes:
        tokens: of a sample in one view.
        parameters: trainable numbers, by what they are of.
        flops: by pass and part.
        work, repeats: what its operations do (`Record`).
        memory: bytes at the peak, by class.
        where: of activations and temporary tensors at the peak, bytes by part.
        growth: `[n, 2]` a and b of lines `a + b·samples`, whose largest is the memory at the peak for so many samples.
    """

    tokens: Tokens
    parameters: dict[str, int]
    flops: dict[str, dict[str, int]]
    work: Float[np.ndarray, "n 3"]
    repeats: Int[np.ndarray, " n"]
    memory: dict[MemoryClass, int]
    where: dict[str, int]
    growth: Float[np.ndarray, "lines 2"] | None

    @property
    def peak(self) -> int:
        """Bytes of all classes."""
        return sum(self.memory.values())

    def dominant(self) -> str:
        """What most of the memory is for; of activations and temporary tensors also in which part most of them are."""
        largest = max(self.memory, key=lambda kind: self.memory[kind])
        if largest not in ("activations", "temporary"):
            return largest
        return f"{largest}, most in the {max(self.where, key=lambda part: self.where[part])}"

    def seconds(self, device: Device) -> float:
        """The roofline: each operation takes as long as its FLOPs or its bytes need at the device's peak."""
        flops, bytes_, short = self.work.T
        peak = np.where(short > 0, device.bf16, device.fp32)
        return float(np.maximum(flops / peak, bytes_ / device.bandwidth) @ self.repeats)

    def largest_batch(self, memory: float | int) -> int:
        """The most samples per process for which the peak is not above `memory` bytes; 0 if there are none."""
        assert self.growth is not None
        fixed, per_sample = self.growth.T
        if (fixed[per_sample <= 0] > memory).any():
            return 0
        growing = per_sample > 0
        return max(int(((memory - fixed[growing]) / per_sample[growing]).min()), 0)


def stage_cost(stage: Stage, growth: bool) -> StageCost:
    """Work a stage out, on fake tensors.

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


def _growth(one: Record, two: Record, samples: int) -> Float[np.ndarray, "lines 2"]:
    """How memory grows, from steps of so many samples and of twice as many.

    Where both allocate in the same order, every moment of the step has its line, and those that are the highest
    somewhere are kept. Where they do not (a loss in chunks), the peaks have one. The optimizer's part takes the same.
    """
    before, after = (record.allocated[: record.passes].astype(float) for record in (one, two))
    optimizer = one.allocated[one.passes :].max(initial=0)
    if len(before) != len(after):
        before, after = before.max(keepdims=True), after.max(keepdims=True)
    per_sample = (after - before) / samples
    lines = np.stack([before - per_sample * samples, per_sample], axis=1)
    lines = np.concatenate([lines, [[float(optimizer), 0.0]]])
    highest = (lines[:, :1] + lines[:, 1:] * BATCHES).argmax(0)
    return lines[np.unique(highest)]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a run takes: of all its processes where it is FLOPs and hours, of one of them where it is memory.

    Attributes:
        config: of the run.
        costs: of its stages, in order.
    """

    config: Config
    costs: tuple[StageCost, ...]

    @property
    def worst(self) -> StageCost:
        """The stage that takes the most memory."""
        return max(self.costs, key=lambda cost: cost.peak)

    @property
    def parameters_of(self) -> dict[str, int]:
        """Trainable numbers, by what they are of (`Objective.parameter_counts`)."""
        return self.costs[0].parameters

    @property
    def parameters(self) -> int:
        """Trainable numbers."""
        return sum(self.parameters_of.values())

    def flops(self) -> dict[str, dict[str, int]]:
        """Per step, by pass and part; the mean over the stages' steps."""
        processes = self.config.runtime.world_size
        return {
            name: {part: round(processes * self._mean([c.flops[name][part] for c in self.costs])) for part in PARTS}
            for name in PASSES
        }

    def flops_per_step(self) -> int:
        """Of both passes and all parts."""
        return sum(sum(parts.values()) for parts in self.flops().values())

    def memory(self) -> dict[MemoryClass, int]:
        """Bytes at the peak, by class, of the worst stage."""
        return sharded_memory.of_one(self.worst.memory, self.config, self.parameters)

    def peak(self) -> int:
        """Bytes of all classes."""
        return sum(self.memory().values())

    def largest_batch(self, memory: float | int) -> int:
        """The most samples per step, of all processes, that no stage needs more for than `memory` bytes a process."""
        more = sharded_memory.most_more(self.worst.memory, self.config, self.parameters)
        return min(cost.largest_batch(memory - more) for cost in self.costs) * self.config.runtime.world_size

    def seconds(self, device: Device) -> float:
        """Per step, by the roofline; the mean over the stages' steps."""
        return float(self._mean([cost.seconds(device) for cost in self.costs]))

    def hours(self, device: Device) -> float:
        """Hours of all devices for the run's training, by the roofline."""
        return self.seconds(device) * self.config.trainer.steps * self.config.runtime.world_size / 3600

    def _mean(self, values: Sequence[float | int]) -> float | int:
        if len(values) == 1:
            return values[0]  # a whole number stays one
        shares = [stage.share for stage in self.config.curriculum.stages]
        return sum(share * value for share, value in zip(shares, values, strict=True))


def modalities_of(data: Data) -> Mapping[str, Modality]:
    """The modalities of a source; its files are looked at only if none is declared. Raises InputError."""
    return data.modalities or open_source(data).modalities


def stages_of(config: Config, modalities: Mapping[str, Modality]) -> list[Stage]:
    """The stages of a run."""
    curriculum = config.curriculum
    return [
        Stage(config, modalities, sizes, stage.share)
        for stage, sizes in zip(curriculum.stages, all_sizes(curriculum), strict=True)
    ]


def predict(config: Config, growth: bool = False) -> Prediction:
    """What a run will take, in about a second.

    Args:
        growth: also how memory grows with the batch (for `largest_batch`).

    Raises InputError for data that cannot be opened.
    """
    stages = stages_of(config, modalities_of(config.data))
    return Prediction(config, tuple(stage_cost(stage, growth) for stage in stages))

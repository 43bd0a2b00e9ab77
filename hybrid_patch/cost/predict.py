"""Predict what runs take from their configs alone: parameters, tokens, FLOPs, memory, and time on a device.

`predict(config)` predicts one run. `predict_sweep` predicts many, in several processes, and works out stages of equal
shapes (`Stage.key`) only once.
"""

import dataclasses
import functools
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from hybrid_patch.config.curriculum import PatchSizes, all_sizes, tile_for
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config, Data
from hybrid_patch.cost.devices import Device
from hybrid_patch.cost.fake_step import Tokens, fake_steps
from hybrid_patch.cost.least_memory import check_planned
from hybrid_patch.cost.parallelism import additional_memory, process_memory
from hybrid_patch.cost.recorder import PASSES, MemoryClass, Record
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError
from hybrid_patch.model.profiling import PARTS
from hybrid_patch.train.step import Phase

A = TypeVar("A")
B = TypeVar("B")

BATCHES = 2.0 ** np.arange(32)
"""Numbers of samples for which the moment of highest memory is looked up."""
FEW = 2
"""Items that are done in this process, at most: starting others takes seconds."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run's curriculum: everything its costs depend on."""

    config: Config
    modalities: Mapping[str, Modality]
    sizes: PatchSizes

    @property
    def samples(self) -> int:
        """Samples per step and process."""
        return self.config.trainer.batch_size // self.config.runtime.world_size

    @functools.cached_property
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
        plain["loss"] = {name: _without_values(value) for name, value in plain["loss"].items()}
        plain["target"] = {name: value for name, value in plain["target"].items() if name != "seed"}
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
        growth: `[n, 2]` a and b of lines `a + b·samples`; their maximum is the peak memory of that many samples.
    """

    record: Record
    tokens: Tokens
    parameters: dict[str, int]
    growth: Float[np.ndarray, "lines 2"] | None

    def largest_batch(self, memory: float | int) -> int:
        """The most samples per process whose peak is at most `memory` bytes; 0 if not even one fits."""
        assert self.growth is not None
        fixed, per_sample = self.growth.T
        growing = per_sample > 0
        if (fixed[~growing] > memory).any():
            return 0
        return max(int(((memory - fixed[growing]) / per_sample[growing]).min()), 0)


def stage_cost(stage: Stage, growth: bool) -> StageCost:
    """The cost of a stage; with `growth` also how memory grows with the batch, which takes a second step."""
    samples = stage.samples
    numbers = [samples, 2 * samples] if growth else [samples]
    records, tokens, parameters = fake_steps(stage.config, stage.modalities, stage.sizes, numbers)
    return StageCost(records[0], tokens, parameters, _growth(records[0], records[1], samples) if growth else None)


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
    """The predicted cost of a run, by the costs of its stages: of all its processes, but memory of one of them."""

    config: Config
    costs: tuple[StageCost, ...]

    @property
    def worst(self) -> StageCost:
        """The stage with the highest memory."""
        return max(self.costs, key=lambda cost: cost.record.peak)

    @property
    def parameters_of(self) -> dict[str, int]:
        """Trainable parameters by module (`TrainingModule.parameter_counts`)."""
        return self.costs[0].parameters

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(self.parameters_of.values())

    def flops(self) -> dict[Phase, dict[str, int]]:
        """FLOPs of a step by pass and part, averaged over the run's steps."""
        processes, records = self.config.runtime.world_size, [cost.record for cost in self.costs]
        return {
            name: {part: round(processes * self._mean([r.flops[name][part] for r in records])) for part in PARTS}
            for name in PASSES
        }

    def flops_per_step(self) -> int:
        """FLOPs of both passes and all parts."""
        return sum(sum(parts.values()) for parts in self.flops().values())

    def memory(self) -> dict[MemoryClass, int]:
        """Bytes at the peak of the worst stage, by class."""
        return process_memory(self.worst.record.memory, self.config, self.parameters)

    def peak(self) -> int:
        """Bytes of all classes."""
        return sum(self.memory().values())

    def largest_batch(self, memory: float | int) -> int:
        """The most samples per step, of all processes, for which no stage exceeds `memory` bytes per process."""
        more = additional_memory(self.worst.record.memory, self.config, self.parameters)
        return min(cost.largest_batch(memory - more) for cost in self.costs) * self.config.runtime.world_size

    def seconds(self, device: Device) -> float:
        """Seconds of a step by the roofline, averaged over the run's steps."""
        return float(self._mean([cost.record.seconds(device) for cost in self.costs]))

    def hours(self, device: Device) -> float:
        """Device hours of the run's training, by the roofline; if it goes on from another, of its part."""
        begun = self.config.continue_from
        steps = self.config.trainer.steps - (begun.step if begun is not None else 0)
        return self.seconds(device) * steps * self.config.runtime.world_size / 3600

    def _mean(self, values: Sequence[float | int]) -> float | int:
        if len(values) == 1:
            return values[0]  # a whole number stays one
        shares = [stage.share for stage in self.config.curriculum.stages]
        return sum(share * value for share, value in zip(shares, values, strict=True))


def predict(config: Config, growth: bool = False) -> Prediction:
    """Predict what a run takes; about a second. With `growth` also how memory grows with the batch.

    Raises InputError for data that cannot be opened.
    """
    (prediction,), _ = predict_sweep([config], growth, processes=1)
    if isinstance(prediction, InputError):
        raise prediction
    return prediction


class PlannedSweep(NamedTuple):
    """Predictions of runs in order, or why one cannot run; and how many distinct stages were worked out."""

    runs: list[Prediction | InputError]
    distinct_shapes: int


def predict_sweep(configs: Sequence[Config | InputError], growth: bool, processes: int | None = None) -> PlannedSweep:
    """Predict runs. An invalid one, whose config is an error, does not stop the others.

    Args:
        growth: also how memory grows with the batch.
        processes: that share the work; None: one per processor.
    """
    opened: dict[str, Mapping[str, Modality] | InputError] = {}
    runs = [_stages_of(config, opened) for config in configs]
    stages = {stage.key: stage for run in runs if not isinstance(run, InputError) for stage in run}
    work = functools.partial(stage_cost, growth=growth)
    costs = dict(zip(stages, _map(work, list(stages.values()), processes or len(os.sched_getaffinity(0))), strict=True))
    predictions = [
        run if isinstance(run, InputError) else Prediction(run[0].config, tuple(costs[stage.key] for stage in run))
        for run in runs
    ]
    return PlannedSweep(predictions, len(stages))


def _stages_of(
    config: Config | InputError, opened: dict[str, Mapping[str, Modality] | InputError]
) -> list[Stage] | InputError:
    """A run's stages, or why it cannot run; `opened` keeps the modalities of each source, which is opened once."""
    if isinstance(config, InputError):
        return config
    source = repr(config.data)
    if source not in opened:
        opened[source] = _modalities_of(config.data)
    modalities = opened[source]
    if isinstance(modalities, InputError):
        return modalities
    try:
        check_planned(config, modalities)
    except InputError as error:
        return error
    return [Stage(config, modalities, sizes) for sizes in all_sizes(config.curriculum)]


def _modalities_of(data: Data) -> Mapping[str, Modality] | InputError:
    """The modalities of a source, or why it cannot be opened: if modalities are declared, it is not."""
    try:
        return data.modalities or open_source(data).modalities
    except InputError as error:
        return error


def _map(function: Callable[[A], B], items: Sequence[A], processes: int) -> list[B]:
    """The function of each item, by several processes where there are enough items."""
    workers = min(processes, len(items))
    if workers == 1 or len(items) <= FEW:
        return [function(item) for item in items]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # the slow imports are done once, and shared
    with ProcessPoolExecutor(workers, context) as pool:
        return list(pool.map(function, items))

"""Metrics of the steps since the last line, which stay on the device until the next line is written."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.runs.checkpoints import Counters
from hybrid_patch.runs.directory import AVERAGED
from hybrid_patch.train.step import SKIPPED


class StepMetrics:
    """Collects steps without waiting for the device, and makes a row of their means.

    Attributes:
        counters: of all steps up to the last row.
        longest_bad: the most steps in a row without a finite loss that ended within the last row, or go on after it.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.counters: Counters = {"bad_steps": 0, "bad_in_a_row": 0, "skipped": 0}
        self.longest_bad = 0
        self._names: list[tuple[str, ...]] = []
        self._on_device: list[Float[Tensor, " terms"]] = []
        self._sizes: list[PatchSizes] = []
        self._lr = self._step_seconds = self._data_seconds = 0.0

    def __len__(self) -> int:
        """The number of steps since the last row."""
        return len(self._on_device)

    @property
    def seconds(self) -> float:
        """What these steps took, with their wait for data."""
        return self._step_seconds + self._data_seconds

    @property
    def sizes(self) -> list[PatchSizes]:
        """The patch sizes of each of these steps."""
        return self._sizes

    def add(self, means: Mapping[str, Float[Tensor, ""]], sizes: PatchSizes, lr: float) -> None:
        """Add a step, by what `TrainingStep.run` returned."""
        self._names.append(tuple(means))
        self._on_device.append(torch.stack(list(means.values())))
        self._sizes.append(sizes)
        self._lr = lr

    def add_time(self, step_seconds: float, data_seconds: float) -> None:
        """Add what a step, and its wait for data, took."""
        self._step_seconds += step_seconds
        self._data_seconds += data_seconds

    def wait(self) -> None:
        """Wait for the device, and bring the values of all steps from it."""
        self._on_device = [values.cpu() for values in self._on_device]

    def row(self, step: int) -> dict[str, Any]:
        """The row of these steps, up to `step`: means of the finite values, None if there is none. Begins a new one.

        Learning rate and counters are those of the last step; patch sizes are None if they differ.
        """
        finite: dict[str, list[float]] = {}
        self.longest_bad = 0
        steps = len(self)
        for names, values in zip(self._names, self._on_device, strict=True):
            by_name = dict(zip(names, values.tolist(), strict=True))
            good = math.isfinite(by_name["loss"]) and math.isfinite(by_name["grad_norm"])
            self.counters["skipped"] += round(by_name.pop(SKIPPED) * self.processes)
            self.counters["bad_steps"] += not good
            self.counters["bad_in_a_row"] = 0 if good else self.counters["bad_in_a_row"] + 1
            self.longest_bad = max(self.longest_bad, self.counters["bad_in_a_row"])
            for name, value in by_name.items():
                finite.setdefault(name, []).extend([value] if math.isfinite(value) else [])
        sizes = self._sizes[0] if len(set(self._sizes)) == 1 else None
        row = {
            "step": step,
            **({AVERAGED: steps} if steps > 1 else {}),
            **{name: math.fsum(values) / len(values) if values else None for name, values in finite.items()},
            "lr": self._lr,
            "bad_steps": self.counters["bad_steps"],
            "skipped": self.counters["skipped"],
            "processing_patch_size": None if sizes is None else sizes.processing,
            "output_patch_size": None if sizes is None else sizes.output,
            "step_seconds": self._step_seconds / steps,
            "data_seconds": self._data_seconds / steps,
        }
        self._names, self._on_device, self._sizes = [], [], []
        self._step_seconds = self._data_seconds = 0.0
        return row

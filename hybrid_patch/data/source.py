"""Samples, and the interface of the sources that they are read from."""

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from hybrid_patch.config.data_options import DataOptions
from hybrid_patch.config.machine import machine_memory
from hybrid_patch.config.modality import Modality
from hybrid_patch.errors import InputError, printable, require_extra

Array = np.ndarray
UNLABELLED = -1


class BrokenSampleError(Exception):
    """A sample that cannot be read; the message is one line with the path and what is wrong with it."""

    def __str__(self) -> str:
        return printable(super().__str__())


@dataclasses.dataclass(frozen=True)
class Window:
    """A rectangle of pixels: rows `[top, top + height)`, columns `[left, left + width)` of a sample."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def at_random(cls, rng: np.random.Generator, height: int, width: int, side: int) -> "Window":
        """A square somewhere in an image; along an axis on which the image is smaller, from its edge to beyond it."""
        top, left = (int(rng.integers(max(length - side, 0) + 1)) for length in (height, width))
        return cls(top, left, side, side)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def within(self, height: int, width: int) -> "Window":
        """The part of it that is inside an image."""
        return Window(self.top, self.left, min(self.height, height - self.top), min(self.width, width - self.left))


@dataclasses.dataclass(frozen=True)
class Sample:
    """Images of one place, in the source's own units (`Modality.normalise` comes after).

    Attributes:
        images: per modality `[H, W, T, C]` float32, C its bands; T is 1 for a static modality. A modality that this
            sample does not have is absent.
        valid: per modality `[H, W, T]`, False where nothing was measured (nodata, a missing timestep).
        timestamps: `[T, 3]` day 1-31, month 0-11, year of the timesteps.
        latlon: `[2]` degrees of the centre, where known.
        labels: `[H, W]` class index per pixel, `UNLABELLED` where there is none; None if the source has no labels of
            pixels.
        label: class index of the whole sample; None if the source has none of samples.
        numbers: `[H, W]` a number per pixel, NaN where there is none; None if the source's labels are no numbers.
    """

    images: Mapping[str, Float[Array, "h w _ _"]]
    valid: Mapping[str, Bool[Array, "h w _"]]
    timestamps: Int[Array, "t 3"]
    latlon: Float[Array, "2"] | None = None
    labels: Int[Array, "h w"] | None = None
    label: int | None = None
    numbers: Float[Array, "h w"] | None = None


@runtime_checkable
class Source(Protocol):
    """A data set: something with numbered samples that can be read in parts, from several processes.

    Attributes:
        modalities: what the samples hold, with statistics fitted (every continuous one has mean and std).
    """

    @property
    def modalities(self) -> Mapping[str, Modality]: ...

    def class_names(self) -> tuple[str, ...]:
        """The label classes; none without labels, or if these are numbers. Raises InputError if they are no classes."""
        ...

    def indices(self, split: str) -> Int[Array, " n"]:
        """Sample numbers of `train` or `val`, ascending. No ground is in both. May be empty for `val`."""
        ...

    def group(self, index: int) -> int:
        """The group of a sample: samples that may share ground have the same group."""
        ...

    def shape(self, index: int) -> tuple[int, int, int]:
        """Height, width (pixels) and number of timesteps of a sample, without reading its images."""
        ...

    def name(self, index: int) -> str:
        """The path or name of a sample, for messages and pictures."""
        ...

    def read(self, index: int, window: Window, timesteps: Int[Array, " t"], labels: bool = True) -> Sample:
        """Read a window of a sample at some of its timesteps (ascending indices below its T), with labels or without.

        Raises BrokenSampleError if the file is truncated, corrupt, or unreadable.
        """
        ...


def timestamps_of(dates: Sequence[datetime.date]) -> Int[Array, "t 3"]:
    """Day, month 0-11 and year of dates; without any, one timestep of which static modalities take no notice."""
    return np.array([[date.day, date.month - 1, date.year] for date in dates] or [[1, 0, 1970]], np.int64)


def open_source(options: DataOptions) -> Source:
    """The source that a configuration names; only its own libraries are imported.

    Raises InputError if its extra is not installed, or if its files do not fit the configuration.
    """
    if options.extra:
        require_extra(*options.extra)
    for values, size in options.least_bytes().items():
        if size > machine_memory():
            raise InputError(f"{values}: needs at least {size:.1e} bytes, more than this machine has; try less")
    module, _, name = options.reader.partition(":")
    try:
        source: Source = getattr(import_module(module), name)(options)
    except BrokenSampleError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"data.root={getattr(options, 'root', None)}: {error}") from error
    for modality in source.modalities:
        if modality != safe_name(modality):
            raise InputError(f"data.modalities.{modality}: not a name that torch takes; try {safe_name(modality)}")
    return source


def safe_name(name: str) -> str:
    """The name of a modality as torch's containers of modules take it: no dots, and none of their own attributes."""
    from torch import nn  # late: configs are checked without torch

    plain = re.sub(r"\W", "_", name)
    return f"{plain}_" if hasattr(nn.ModuleDict, plain) or hasattr(nn.ParameterDict, plain) else plain


def evenly(length: int, count: int) -> Int[Array, " n"]:
    """At most `count` of `length` numbers, from the first to the last."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))

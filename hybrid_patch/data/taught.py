"""Windows whose tokens a teacher has made: where they are, and the crops around them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.config.modality import NORMALISED_MEAN
from hybrid_patch.config.target_options import SelfTarget
from hybrid_patch.data.crops import Crop, read_crop
from hybrid_patch.data.source import Array, Source, Window

OF_A_BAND = 0.4
"""The jitter of one band, relative to that of all."""
UNCHANGED = 3
"""One window of so many keeps its values."""
PART = 32
"""Windows in a file."""


@dataclasses.dataclass(frozen=True)
class TaughtWindow:
    """A window of a training sample; `number` decides how its values are jittered."""

    number: int
    index: int
    window: Window
    timesteps: Int[Array, " t"]


class TaughtWindows:
    """The windows of a training, drawn by the target's seed alone, and the teacher's numbers for them in a folder.

    A window lies on the coarse grid of at least one crop of `tile` pixels, and a crop around it has it on its grid.
    """

    def __init__(self, source: Source, target: SelfTarget, tile: int, timesteps: int, cell: int, folder: Path) -> None:
        self.source, self.target, self.tile, self.timesteps, self.cell = source, target, tile, timesteps, cell
        self.folder = folder
        self.indices = source.indices("train")
        self._parts: dict[int, dict[str, Array]] = {}

    def __len__(self) -> int:
        return self.target.windows

    def window(self, number: int) -> TaughtWindow:
        """One of the windows: samples take turns."""
        rng = np.random.default_rng([self.target.seed, number])
        index = int(self.indices[number % len(self.indices)])
        height, width, length = self.source.shape(index)
        crop = Window.at_random(rng, height, width, self.tile)
        row, column = (int(rng.integers((self.tile - self.target.window) // self.cell + 1)) for _ in "rc")
        side = self.target.window
        window = Window(crop.top + row * self.cell, crop.left + column * self.cell, side, side)
        return TaughtWindow(number, index, window, np.sort(rng.permutation(length)[: self.timesteps]))

    def crop(self, taught: TaughtWindow, rng: np.random.Generator) -> tuple[Crop, tuple[int, int]]:
        """A crop with the window somewhere in it, and the window's corner in the crop."""
        height, width, _ = self.source.shape(taught.index)
        corners = []
        for at, length in ((taught.window.top, height), (taught.window.left, width)):
            first, last = max(at + self.target.window - self.tile, 0), min(at, max(length - self.tile, 0))
            possible = np.arange(first + (at - first) % self.cell, last + 1, self.cell)
            corners.append(int(rng.choice(possible)))
        window = Window(corners[0], corners[1], self.tile, self.tile)
        corner = [taught.window.top - window.top, taught.window.left - window.left]
        *mirrored, turned = self._orientation(taught)
        last = self.tile - self.target.window
        corner = [last - at if mirror else at for at, mirror in zip(corner, mirrored, strict=True)]
        row, column = reversed(corner) if turned else corner
        return self.read(taught, window), (row, column)

    def _orientation(self, taught: TaughtWindow) -> tuple[bool, bool, bool]:
        """Whether a window's rows and its columns are mirrored, and then rows and columns exchanged."""
        rows, columns, turned = np.random.default_rng([self.target.seed, taught.number, 2]).integers(2, size=3) > 0
        return bool(rows), bool(columns), bool(turned)

    def read(self, taught: TaughtWindow, window: Window) -> Crop:
        """A window of the sample of a taught one, with its timesteps, orientation and jitter."""
        crop = read_crop(self.source, taught.index, window, taught.timesteps, self.timesteps, labels=False)
        crop = crop.turned(*self._orientation(taught))
        if not self.target.jitter or taught.number % UNCHANGED == 0:
            return crop
        rng = np.random.default_rng([self.target.seed, taught.number, 1])
        pixels = {}
        for name, values in crop.pixels.items():
            modality = self.source.modalities[name]
            pixels[name] = values if modality.kind == "categorical" else self._jittered(values, crop.valid[name], rng)
        return dataclasses.replace(crop, pixels=pixels)

    def _jittered(
        self, values: Float[Array, "h w t c"], valid: Array, rng: np.random.Generator
    ) -> Float[Array, "h w t c"]:
        """Values with another contrast and brightness, in all bands alike and, less, in each."""
        strength, bands = self.target.jitter, values.shape[-1]
        contrast = np.exp(rng.normal(0, strength) + rng.normal(0, strength * OF_A_BAND, bands))
        shift = rng.normal(0, strength / 2) + rng.normal(0, strength / 2 * OF_A_BAND, bands)
        changed = (values - NORMALISED_MEAN) * contrast + NORMALISED_MEAN + shift
        return np.where(valid[..., None], changed, 0).astype(np.float32)

    def part(self, number: int) -> Path:
        """The file with the numbers of windows `number · PART` and the following."""
        return self.folder / f"part_{number:05d}.npz"

    def numbers(self, number: int) -> Mapping[str, Float[Array, "h w t s k"]]:
        """The teacher's numbers for a window, by modality."""
        part, row = divmod(number, PART)
        if part not in self._parts:
            with np.load(self.part(part)) as arrays:
                self._parts[part] = {name: arrays[name] for name in arrays.files}
        return {name: array[row] for name, array in self._parts[part].items()}

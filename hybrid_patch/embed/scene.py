"""A scene that is to be embedded: windows of its files, normalised with a run's statistics."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.crops import Crop
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
from hybrid_patch.data.rasters.layout import UNDATED
from hybrid_patch.data.source import BrokenSampleError, Window
from hybrid_patch.embed.scene_files import ReadOptions, SceneInputs, find_inputs
from hybrid_patch.errors import InputError

Array = np.ndarray


class SceneReader:
    """The files of a scene, open for reading in windows. Not for several threads at once.

    Attributes:
        inputs: which files are what.
        modalities: of the layers that there are.
        height, width: pixels.
        timestamps: `[T, 3]` day, month 0-11, year.
    """

    def __init__(
        self, path: Path, modalities: Mapping[str, Modality], timesteps: int, options: ReadOptions | None = None
    ) -> None:
        """Look at all files; raises InputError for whatever does not fit (see `find_inputs`)."""
        self._files = RasterFiles()
        self.inputs: SceneInputs = find_inputs(path, modalities, timesteps, options or ReadOptions(), self._files)
        self.modalities = {name: modality for name, modality in modalities.items() if name in self.inputs.layers}
        self.height, self.width = self.grid.height, self.grid.width
        dates = [[date.day, date.month - 1, date.year] for date in self.inputs.dates]
        self.timestamps: Int[Array, "t 3"] = np.array(dates, np.int64) if dates else UNDATED
        self._scaling = {name: _scaling(modality) for name, modality in self.modalities.items()}

    @property
    def grid(self) -> Header:
        """Size and place."""
        return self.inputs.grid

    @property
    def absent(self) -> dict[str, tuple[int, ...]]:
        """Per modality, the band sets that are left out."""
        return {name: layer.absent for name, layer in self.inputs.layers.items()}

    @property
    def pixel_km2(self) -> float:
        """Ground that a pixel covers, km²; by the modality's sample distance if the files are not georeferenced."""
        gsd = self.grid.gsd() or next(iter(self.modalities.values())).gsd
        return (gsd / 1000) ** 2

    def files(self) -> list[dict[str, Any]]:
        """The files by path, size and time of change: whether a scene is still the same."""
        paths = [path for layer in self.inputs.layers.values() for path in layer.files.values()]
        stats = [(path, path.stat()) for path in paths]
        return [{"path": str(path.resolve()), "bytes": s.st_size, "changed": s.st_mtime_ns} for path, s in stats]

    def read(self, window: Window) -> Crop:
        """A window, normalised. What lies outside the scene is missing.

        Raises InputError for a file that cannot be read.
        """
        inside = Window(
            window.top,
            window.left,
            min(window.height, self.height - window.top),
            min(window.width, self.width - window.left),
        )
        pixels: dict[str, Float[Array, "h w _ _"]] = {}
        valid: dict[str, Bool[Array, "h w _"]] = {}
        for name, modality in self.modalities.items():
            layer = self.inputs.layers[name]
            length = len(self.timestamps) if modality.temporal else 1
            pixels[name] = np.zeros((window.height, window.width, length, modality.channels), np.float32)
            valid[name] = np.zeros((window.height, window.width, length), bool)
            scale, shift = self._scaling[name]
            channels = list(layer.channels)
            for step, path in layer.files.items():
                try:
                    values, there = self._files.read(path, layer.bands[path], inside, layer.nodata)
                except BrokenSampleError as error:
                    raise InputError(str(error)) from error
                values *= scale[channels]
                values += shift[channels]
                values[~there] = 0
                into = pixels[name][: inside.height, : inside.width, step]
                if channels == list(range(modality.channels)):
                    into[...] = values
                else:
                    into[..., channels] = values
                valid[name][: inside.height, : inside.width, step] = there
        return Crop(pixels, valid, self.timestamps, None)

    def windows_with_data(self, side: int, count: int, seed: int = 0) -> Iterator[Crop]:
        """Up to `count` windows with something in them, spread over the scene.

        Where most of it is empty, all of it is gone through, row by row, until as many are found.
        """
        rows, columns = -(-self.height // side), -(-self.width // side)
        spread = _spread(rows * columns, min(4 * count, rows * columns), seed)
        taken = set(spread)
        found = 0
        for place in itertools.chain(spread, (other for other in range(rows * columns) if other not in taken)):
            crop = self.read(Window(place // columns * side, place % columns * side, side, side))
            if any(there.any() for there in crop.valid.values()):
                found += 1
                yield crop
                if found == count:
                    return


def _spread(length: int, count: int, seed: int) -> list[int]:
    """`count` of `length` places, one drawn from each of as many equal parts, in random order."""
    rng = np.random.default_rng(seed)
    edges = np.linspace(0, length, count + 1)
    drawn = np.floor(edges[:-1] + rng.random(count) * np.diff(edges)).astype(int)
    return [int(place) for place in rng.permutation(np.unique(drawn))]


def _scaling(modality: Modality) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Factor and summand of `Modality.normalise`, in float32: one product instead of four in float64."""
    assert modality.mean is not None
    assert modality.std is not None
    mean, std = np.asarray(modality.mean), np.asarray(modality.std)
    return (1 / (4 * std)).astype(np.float32), (0.5 - mean / (4 * std)).astype(np.float32)

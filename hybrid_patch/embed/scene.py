"""A scene to be embedded: windows of its files, normalised with the statistics of a run."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.crops import Crop
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
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
        """Find and check the files; see `find_inputs`. Raises InputError."""
        self._files = RasterFiles()
        self.inputs: SceneInputs = find_inputs(path, modalities, timesteps, options or ReadOptions(), self._files)
        self.modalities = {name: layer.modality for name, layer in self.inputs.layers.items()}
        self.height, self.width = self.grid.height, self.grid.width
        self.timestamps = self.inputs.scene.timestamps

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
        stats = [(path, path.stat()) for path in self.inputs.scene.paths]
        return [{"path": str(path.resolve()), "bytes": s.st_size, "changed": s.st_mtime_ns} for path, s in stats]

    def read(self, window: Window) -> Crop:
        """A window, normalised. Pixels outside the scene are missing.

        Raises InputError for a file that cannot be read.
        """
        inside = window.within(self.height, self.width)
        pixels: dict[str, Float[Array, "h w _ _"]] = {}
        valid: dict[str, Bool[Array, "h w _"]] = {}
        for name, layer in self.inputs.layers.items():
            length = len(self.timestamps) if layer.modality.temporal else 1
            pixels[name] = np.zeros((window.height, window.width, length, layer.modality.channels), np.float32)
            valid[name] = np.zeros(pixels[name].shape[:3], bool)
            absent = [c for s in layer.absent for c in layer.modality.band_set_channels[s]]
            for step, path in self.inputs.scene.files[name].items():
                try:
                    image = layer.modality.normalise(*layer.read(self._files, path, inside, self.grid))
                except BrokenSampleError as error:
                    raise InputError(str(error)) from error
                place = (slice(inside.height), slice(inside.width), step)
                pixels[name][place], valid[name][place] = image
            pixels[name][..., absent] = 0
        return Crop(pixels, valid, self.timestamps, None)

    def windows_with_data(self, side: int, count: int, seed: int = 0) -> Iterator[Crop]:
        """Up to `count` windows with something in them, spread over the scene.

        Where most of the scene is empty, the rest of it is read row by row until there are as many.
        """
        rows, columns = -(-self.height // side), -(-self.width // side)
        spread = _spread(rows * columns, min(4 * count, rows * columns), seed)
        drawn = set(spread)
        order = itertools.chain(spread, (number for number in range(rows * columns) if number not in drawn))
        windows = (Window(number // columns * side, number % columns * side, side, side) for number in order)
        crops = (crop for crop in map(self.read, windows) if any(valid.any() for valid in crop.valid.values()))
        yield from itertools.islice(crops, count)


def _spread(length: int, count: int, seed: int) -> list[int]:
    """`count` of `length` numbers, one drawn from each of as many equal parts, in random order."""
    rng = np.random.default_rng(seed)
    edges = np.linspace(0, length, count + 1)
    drawn = np.floor(edges[:-1] + rng.random(count) * np.diff(edges)).astype(int)
    return [int(number) for number in rng.permutation(np.unique(drawn))]

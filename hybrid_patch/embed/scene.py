"""A scene to be embedded: windows of its files, normalised with the statistics of a run."""

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.crops import Crop, crop_of
from hybrid_patch.data.description import far_off
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
from hybrid_patch.data.rasters.scene import Layer, SceneFiles, read_images
from hybrid_patch.data.source import BrokenSampleError, Sample, Window
from hybrid_patch.errors import InputError

Array = np.ndarray


@dataclass(frozen=True)
class SceneReader:
    """The files of a scene, all on one grid, open for reading in windows. Not for several threads at once.

    Layers, by modality, say how they are read; notes, which choices were made; `dates` is empty if all is static.
    """

    rasters: RasterFiles
    files: SceneFiles
    layers: Mapping[str, Layer]
    dates: tuple[datetime.date, ...]
    grid: Header
    notes: tuple[str, ...]

    @property
    def modalities(self) -> dict[str, Modality]:
        return {name: layer.modality for name, layer in self.layers.items()}

    @property
    def absent(self) -> dict[str, tuple[int, ...]]:
        """Per modality, the band sets that are left out."""
        return {name: layer.absent for name, layer in self.layers.items()}

    @property
    def pixel_km2(self) -> float:
        """Ground that a pixel covers, km²; by the modality's sample distance if the files are not georeferenced."""
        gsd = self.grid.gsd() or next(iter(self.modalities.values())).gsd
        return (gsd / 1000) ** 2

    def identity(self) -> list[dict[str, Any]]:
        """The files by path, size and time of change: whether a scene is still the same."""
        stats = [(path, path.stat()) for path in self.files.paths]
        return [{"path": str(path.resolve()), "bytes": s.st_size, "changed": s.st_mtime_ns} for path, s in stats]

    def read(self, window: Window) -> Crop:
        """A window, normalised; pixels outside the scene are missing. Raises InputError for an unreadable file."""
        inside, length = window.within(self.grid.height, self.grid.width), len(self.files.timestamps)
        try:
            images, valid = read_images(self.rasters, self.files, self.layers, self.grid, inside, np.arange(length))
        except BrokenSampleError as error:
            raise InputError(str(error)) from error
        crop = crop_of(Sample(images, valid, self.files.timestamps), self.modalities, window, length)
        for name, layer in self.layers.items():
            for number in layer.absent:
                crop.pixels[name][..., layer.modality.band_set_channels[number]] = 0
        return crop

    def outside_training(self, side: int) -> Iterator[str]:
        """A line for each modality whose normalised values are far from those of a training."""
        crops = list(self.windows_with_data(side, 8))
        for name, layer in self.layers.items():
            values = [crop.pixels[name][crop.valid[name]][:, layer.channels] for crop in crops]
            if any(map(len, values)) and far_off(normalised := np.concatenate(values)):
                spread = normalised.std(0).max()
                yield (
                    f"warning: {name}: normalised values of {np.median(normalised):.3g} ± {spread:.2g}, far from "
                    "the training's 0.5 ± 0.25: other units, or an offset that the files do not declare?"
                )

    def windows_with_data(self, side: int, count: int) -> Iterator[Crop]:
        """Up to `count` windows with something in them, spread over the scene.

        Where most of the scene is empty, the rest of it is read row by row until there are as many.
        """
        columns = -(-self.grid.width // side)
        total = -(-self.grid.height // side) * columns
        # One from each of up to 4 * count equal parts, in random order.
        rng, edges = np.random.default_rng(0), np.linspace(0, total, min(4 * count, total) + 1)
        spread = np.floor(edges[:-1] + rng.random(len(edges) - 1) * np.diff(edges)).astype(int)
        order = dict.fromkeys([*rng.permutation(np.unique(spread)).tolist(), *range(total)])
        crops = (self.read(Window(number // columns * side, number % columns * side, side, side)) for number in order)
        yield from islice((crop for crop in crops if any(valid.any() for valid in crop.valid.values())), count)

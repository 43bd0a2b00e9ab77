"""The files of one place: their dates, bands and grid. Training, evaluation and maps read them through this module."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.rasters.filenames import Series
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
from hybrid_patch.data.rasters.tables import Meta
from hybrid_patch.data.source import Array, BrokenSampleError, Window, timestamps_of
from hybrid_patch.errors import InputError

MAX_GSD_CHANGE = 0.1
"""Relative difference of pixel sizes that is accepted: among tiles, and of a scene from the training."""


@dataclass(frozen=True)
class SceneFiles:
    """The files of one place, all on one grid.

    Attributes:
        files: per modality, its file at each timestep that it has; a static modality has timestep 0.
        timestamps: `[T, 3]` day, month 0-11, year.
        labels: the file of the labels, if there is one.
    """

    name: str
    files: Mapping[str, Mapping[int, Path]]
    timestamps: Int[Array, "t 3"]
    labels: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """All image files."""
        return [path for series in self.files.values() for path in series.values()]


def dates_of(series: Iterable[Series]) -> list[datetime.date]:
    """All dates of some series, in order."""
    return sorted({date for files in series for date in files if date is not None})


def scene_files(
    name: str, series: Mapping[str, Series], dates: Sequence[datetime.date], labels: Path | None = None
) -> SceneFiles:
    """The scene of some series; `dates` are its timesteps. Modalities without a file at any of them are left out."""
    steps: dict[datetime.date | None, int] = {None: 0} | {date: step for step, date in enumerate(dates)}
    files = {
        modality: {steps[date]: path for date, path in dated.items() if date in steps}
        for modality, dated in series.items()
    }
    placed = {modality: by_step for modality, by_step in files.items() if by_step}
    return SceneFiles(name, placed, timestamps_of(dates), labels)


@dataclass(frozen=True)
class Layer:
    """How the files of a modality are read.

    Attributes:
        meta: what describes files that have no band names, or no nodata value, of their own.
        nodata: the value that means 'no data' in files that declare none; None: that of `meta`.
        absent: numbers of the band sets that are not read.
    """

    name: str
    modality: Modality
    meta: Meta
    nodata: float | None = None
    absent: tuple[int, ...] = ()

    @cached_property
    def channels(self) -> list[int]:
        """The modality's bands that are read."""
        sets = self.modality.band_set_channels if self.modality.kind == "continuous" else ((0,),)
        return sorted(channel for number, each in enumerate(sets) if number not in self.absent for channel in each)

    def bands(self, header: Header) -> dict[str, int]:
        """The bands of a file; see `bands_of`."""
        return bands_of(header, self.meta.names("bands", self.name), self.modality.bands)

    def positions(self, header: Header) -> tuple[int | None, ...]:
        """The number of each of the modality's bands in a file, from 1, whatever the case; None if it is missing."""
        exact = self.bands(header)
        folded = {name.casefold(): number for name, number in exact.items()}
        return tuple(exact.get(band, folded.get(band.casefold())) for band in self.modality.bands)

    def match(self, header: Header) -> list[int]:
        """The numbers of the bands to read in a file, from 1. Raises InputError naming file and band."""
        positions, matched = self.positions(header), []
        for channel in self.channels:
            position = positions[channel]
            if position is None:
                raise InputError(
                    f"{header.path}: has no band {self.modality.bands[channel]!r} of modality {self.name!r}; "
                    f"it has {', '.join(self.bands(header))}"
                )
            matched.append(position)
        return matched

    def read(
        self, files: RasterFiles, path: Path, window: Window, grid: Header
    ) -> tuple[Float[Array, "h w c"], Bool[Array, "h w"]]:
        """The bands of a file in a window, zeros where not read, and where those that are read are valid.

        Raises BrokenSampleError, also for a file that is not on the scene's grid or lacks a band.
        """
        try:
            bands = self.match(files.header(path))
        except InputError as error:
            raise BrokenSampleError(str(error)) from error
        nodata = self.meta.number("nodata", self.name) if self.nodata is None else self.nodata
        values, valid = read_window(files, path, bands, window, grid, nodata)
        if not self.absent:
            return values, valid
        image = np.zeros((*valid.shape, len(self.modality.bands)), np.float32)
        image[..., self.channels] = values
        return image, valid


def read_images(
    files: RasterFiles,
    scene: SceneFiles,
    layers: Mapping[str, Layer],
    grid: Header,
    window: Window,
    timesteps: Int[Array, " t"],
) -> tuple[dict[str, Float[Array, "h w _ _"]], dict[str, Bool[Array, "h w _"]]]:
    """A scene's images in a window at some timesteps, by modality, and where they are valid, as in `Sample`.

    Raises BrokenSampleError.
    """
    images, valid = {}, {}
    for name, series in scene.files.items():
        modality = layers[name].modality
        steps = timesteps if modality.temporal else np.zeros(1, np.int64)
        images[name] = np.zeros((window.height, window.width, len(steps), len(modality.bands)), np.float32)
        valid[name] = np.zeros(images[name].shape[:3], bool)
        for i, step in enumerate(steps.tolist()):
            if step in series:
                images[name][:, :, i], valid[name][:, :, i] = layers[name].read(files, series[step], window, grid)
    return images, valid


def bands_of(header: Header, *others: tuple[str, ...]) -> dict[str, int]:
    """The bands of a file: their names, and their numbers in it.

    They are called what the file says, else the first of `others` that names as many, else band_1, band_2, .... A mask
    that others count is a band.
    """
    numbered = {f"band_{number}": number for number in header.bands}
    for names in (header.names, *others):
        for numbers in (header.bands, header.all_bands):
            if len(names) == len(numbers) and not numbered.keys() & set(names):
                return dict(zip(names, numbers, strict=True))
    return numbered


def read_window(
    files: RasterFiles, path: Path, bands: Sequence[int], window: Window, grid: Header, nodata: float | None = None
) -> tuple[Float[Array, "h w c"], Bool[Array, "h w"]]:
    """As `RasterFiles.read`, in a window of a scene's grid; pixels of a coarser file are repeated.

    Raises BrokenSampleError, also for a file that does not fit the grid.
    """
    header = files.header(path)
    check_grid(header, grid, BrokenSampleError)
    ratio = header.ratio(grid)
    if ratio == 1:
        return files.read(path, bands, window, nodata)
    top, left = window.top // ratio, window.left // ratio
    height, width = -(-(window.top + window.height) // ratio) - top, -(-(window.left + window.width) // ratio) - left
    coarse = files.read(path, bands, Window(top, left, height, width), nodata)
    inside = Window(window.top - top * ratio, window.left - left * ratio, window.height, window.width).slices
    values, valid = (array.repeat(ratio, 0).repeat(ratio, 1)[inside] for array in coarse)
    return values, valid


def finest(headers: Iterable[Header]) -> Header:
    """The header with the most pixels: that of a scene's grid."""
    return max(headers, key=lambda header: header.height * header.width)


def check_grid(header: Header, grid: Header, error: type[Exception] = InputError) -> None:
    """Raises an error if the pixels of a file are not those of its scene's grid, or whole numbers of them."""
    if not header.ratio(grid):
        raise error(
            f"{header.path}: {header.height}×{header.width} pixels at {tuple(header.transform)[:6]}, but {grid.path} "
            f"has {grid.height}×{grid.width} at {tuple(grid.transform)[:6]}; warp them to one grid"
        )

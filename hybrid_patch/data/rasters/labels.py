"""The per-pixel labels of a folder of GeoTIFFs: which classes there are, and the class or the number of each pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
from hybrid_patch.data.rasters.scene import read_window
from hybrid_patch.data.source import UNLABELLED, Array, BrokenSampleError, Window
from hybrid_patch.errors import InputError

NO_LABEL_NAMES = ("nodata", "unlabelled", "unlabeled")
MAX_CLASSES = 1000
"""Without names, a larger label value is taken for a mistake."""


@dataclass(frozen=True)
class Labels:
    """How label values are read: value i is class i.

    Attributes:
        classes: names of the values 0, 1, ...; values beyond them are unlabelled.
        unlabelled: values that mean 'no label', in addition to the files' nodata.
    """

    classes: tuple[str, ...]
    unlabelled: tuple[int, ...]

    def read(self, files: RasterFiles, path: Path, window: Window, grid: Header) -> Int[Array, "h w"]:
        """Class index per pixel, `UNLABELLED` where there is none. Raises BrokenSampleError, as `Layer.read` does."""
        values, valid = read_window(files, path, _one_band(files.header(path)).bands, window, grid)
        codes = values[..., 0].astype(np.int64)
        valid &= (codes == values[..., 0]) & (codes >= 0) & (codes < len(self.classes))
        valid &= ~np.isin(codes, self.unlabelled)
        return np.where(valid, codes, UNLABELLED)


def read_numbers(
    files: RasterFiles, path: Path, window: Window, grid: Header, nodata: int | None
) -> Float[Array, "h w"]:
    """A number per pixel, NaN where there is none. Raises BrokenSampleError, as `Layer.read` does."""
    values, valid = read_window(files, path, _one_band(files.header(path)).bands, window, grid)
    numbers = values[..., 0]
    return np.where(valid & np.isfinite(numbers) & (numbers != nodata), numbers, np.float32(np.nan))


def find_labels(files: RasterFiles, paths: Sequence[Path], names: tuple[str, ...], nodata: int | None) -> Labels:
    """The classes of a set of label files.

    A class named 'no data' (or 'unlabelled') means 'no label'. Without names every file is read, and the
    classes are the values 0 to the largest. Raises InputError if that is no number of classes.
    """
    unlabelled = [value for value, name in enumerate(names) if _plain(name) in NO_LABEL_NAMES]
    if nodata is not None:
        unlabelled.append(nodata)
    if not names:
        names = tuple(str(value) for value in range(_largest(files, paths, unlabelled) + 1))
    return Labels(names, tuple(unlabelled))


def _one_band(header: Header) -> Header:
    """The same header. Raises InputError if there are several bands: labels in colours."""
    if len(header.bands) > 1:
        raise InputError(f"{header.path}: labels of {len(header.bands)} bands; write one band of class numbers")
    return header


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _largest(files: RasterFiles, paths: Sequence[Path], unlabelled: Sequence[int]) -> int:
    largest = -1
    for path in paths:
        try:
            header = _one_band(files.header(path))
            values, valid = files.read(path, header.bands, Window(0, 0, header.height, header.width))
        except BrokenSampleError:
            continue  # Reported when the sample itself is read.
        codes = values[..., 0][valid & ~np.isin(values[..., 0], unlabelled)]
        largest = max(largest, int(codes.max(initial=-1)))
        if largest >= MAX_CLASSES:
            raise InputError(f"{path}: holds the label {largest}; name the classes with data.label_classes")
    return largest

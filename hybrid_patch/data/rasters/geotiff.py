"""GeoTIFFs, read in windows: the header of a file, and the values and validity of some of its bands."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Bool, Float, Shaped
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import transform as reproject_points
from rasterio.windows import Window as RasterWindow

from hybrid_patch.data.source import Array, BrokenSampleError, Window

METRES_PER_DEGREE = 111_320.0
"""Along a meridian, and along the equator."""


@dataclass(frozen=True)
class Header:
    """A GeoTIFF's size, place and bands.

    Attributes:
        names: the descriptions of its bands (an alpha band left out); empty if any is missing or two are the same.
        count: the number of its bands, without an alpha band.
        nodata: the nodata value of each band, alpha too, if it has one.
        masked: whether it has a mask or an alpha band.
        crs, transform: rasterio's coordinate reference system (None: not georeferenced) and affine transform.
    """

    path: Path
    height: int
    width: int
    names: tuple[str, ...]
    count: int
    nodata: tuple[float | None, ...]
    masked: bool
    crs: Any
    transform: Any

    @property
    def georeferenced(self) -> bool:
        """Whether the pixels have a place on the ground."""
        return self.crs is not None and not self.transform.is_identity

    def same_grid(self, other: "Header") -> bool:
        """Whether both files have the same pixels on the ground (to 0.01 pixel); True if one is not georeferenced."""
        if (self.height, self.width) != (other.height, other.width):
            return False
        if not (self.georeferenced and other.georeferenced):
            return True
        near = 0.01 * max(abs(self.transform.a), abs(self.transform.b))
        # The far corner too: a small difference of the pixel size adds up.
        far = float(self.width), float(self.height)
        mine, theirs = ((*grid.position(0.0, 0.0), *grid.position(*far)) for grid in (self, other))
        return bool(self.crs == other.crs) and all(abs(a - b) <= near for a, b in zip(mine, theirs, strict=True))

    def position(self, column: float, row: float) -> tuple[float, float]:
        """Coordinates, in the file's reference system, of a point given in pixels from the upper left corner."""
        t = self.transform
        return t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f

    def latlon(self, window: Window) -> Float[Array, "2"] | None:
        """Latitude and longitude, degrees, of a window's centre; None if the file is not georeferenced."""
        if not self.georeferenced:
            return None
        x, y = self.position(window.left + window.width / 2, window.top + window.height / 2)
        longitude, latitude = reproject_points(self.crs, "EPSG:4326", [x], [y])
        return np.array([latitude[0], longitude[0]])

    def gsd(self) -> float | None:
        """Metres per pixel (the mean of both directions; degrees as at the middle); None if not georeferenced."""
        if not self.georeferenced:
            return None
        width = float(np.hypot(self.transform.a, self.transform.d))
        height = float(np.hypot(self.transform.b, self.transform.e))
        if self.crs.is_geographic:
            _, latitude = self.position(self.width / 2, self.height / 2)
            return METRES_PER_DEGREE * (width * float(np.cos(np.radians(latitude))) + height) / 2
        return float(self.crs.linear_units_factor[1]) * (width + height) / 2


class RasterFiles:
    """Open GeoTIFFs of one process: the most recently used ones stay open.

    A process that was forked or was sent a copy opens its own files: a file's position is shared between forks.
    Not for several threads at once.
    """

    def __init__(self, capacity: int = 128) -> None:
        self._capacity, self._process = capacity, os.getpid()
        self._opened = lru_cache(capacity)(_open)

    def __reduce__(self) -> tuple[type["RasterFiles"], tuple[int]]:
        return RasterFiles, (self._capacity,)

    def header(self, path: Path) -> Header:
        """The size, place and bands of a file. Raises BrokenSampleError."""
        return self._file(path)[1]

    def tags(self, path: Path) -> dict[str, str]:
        """The tags of the file. Raises BrokenSampleError."""
        return dict(self._file(path)[0].tags())

    def read(
        self, path: Path, bands: Sequence[int], window: Window, nodata: float | None = None
    ) -> tuple[Float[Array, "h w c"], Bool[Array, "h w"]]:
        """Values (float32) of some bands (counted from 1) in a window, and where all of them are valid.

        A pixel is invalid where a band has the file's nodata value (`nodata`, where the file declares none), where its
        mask or alpha band excludes it, or where a value is not finite in float32. Invalid pixels are 0.

        Raises BrokenSampleError.
        """
        dataset, header = self._file(path)
        if window.top + window.height > header.height or window.left + window.width > header.width:
            raise BrokenSampleError(f"{path}: is {header.height}×{header.width}, too small for {window}")
        area = RasterWindow(window.left, window.top, window.width, window.height)
        valid = np.ones((window.height, window.width), bool)
        try:
            raw: Shaped[Array, "c h w"] = dataset.read(list(bands), window=area)
            if header.masked:
                valid &= dataset.read_masks(1, window=area) > 0
        except (RasterioError, OSError) as error:
            self._opened.cache_clear()
            raise BrokenSampleError(f"{path}: {_reason(error)}") from error
        with np.errstate(over="ignore", invalid="ignore"):
            for values, band in zip(raw, bands, strict=True):
                declared = header.nodata[band - 1]
                missing = nodata if declared is None else declared
                if missing is not None:
                    valid &= values != missing
            image = np.moveaxis(raw, 0, -1).astype(np.float32)
        valid &= np.isfinite(image).all(-1)
        image[~valid] = 0
        return image, valid

    def _file(self, path: Path) -> tuple[Any, Header]:
        if os.getpid() != self._process:
            self._process, self._opened = os.getpid(), lru_cache(self._capacity)(_open)
        return self._opened(path)


def _open(path: Path) -> tuple[Any, Header]:
    """A dataset, which closes when nothing refers to it any more, and its header."""
    try:
        with warnings.catch_warnings():
            # Tiles without a place on the ground are fine: see `Header.georeferenced`.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path)
            return dataset, _header(path, dataset)
    except (RasterioError, OSError) as error:
        raise BrokenSampleError(f"{path}: {_reason(error)}") from error


def _header(path: Path, dataset: Any) -> Header:
    bands = [i for i, meaning in enumerate(dataset.colorinterp) if meaning != ColorInterp.alpha]
    names = tuple((dataset.descriptions[i] or "").strip() for i in bands)
    if not all(names) or len(set(names)) < len(names):
        names = ()
    return Header(
        path=path,
        height=dataset.height,
        width=dataset.width,
        names=names,
        count=len(bands),
        nodata=tuple(None if value is None else float(value) for value in dataset.nodatavals),
        masked=MaskFlags.per_dataset in dataset.mask_flag_enums[0],
        crs=dataset.crs,
        transform=dataset.transform,
    )


def _reason(error: Exception) -> str:
    """The error and its cause in GDAL, on one line."""
    causes = [error] if error.__cause__ is None else [error, error.__cause__]
    return " ".join(": ".join(map(str, causes)).split())

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
from hybrid_patch.runs.records import not_a_file

METRES_PER_DEGREE = 111_320.0
"""Along a meridian, and along the equator."""
SIDECARS = (".aux.xml", ".aux", ".AUX", ".msk", ".MSK", ".xml", ".XML")
"""Endings of the files that GDAL opens beside a GeoTIFF, behind its name or its name without suffix."""
MASK_NAMES = ("", "alpha", "mask")
"""What a band is called that GDAL takes for the mask of the others; a band of any other name is none."""


@dataclass(frozen=True)
class Header:
    """A GeoTIFF's size, place and bands.

    Attributes:
        bands: the numbers of its bands in the file, from 1, without `mask_band`.
        names: the descriptions of `bands`; empty if any is missing or two are the same.
        mask_band: the number of the band that is the mask of the others (an alpha band); None: there is none.
        scales: what the values of each band of the file are multiplied by, and then added to.
        declares_nodata: for each band of the file, whether it has a nodata value.
        masked: for each band of the file, whether GDAL has a mask of it, by a nodata value, a mask or a sidecar file.
        crs, transform: rasterio's coordinate reference system (None: there is none) and affine transform.
        gcps: ground control points and their reference system, as rasterio has them.
    """

    path: Path
    height: int
    width: int
    bands: tuple[int, ...]
    names: tuple[str, ...]
    mask_band: int | None
    scales: tuple[tuple[float, float], ...]
    declares_nodata: tuple[bool, ...]
    masked: tuple[bool, ...]
    crs: Any
    transform: Any
    gcps: tuple[list[Any], Any]

    @property
    def all_bands(self) -> tuple[int, ...]:
        """The numbers of its bands, the mask too."""
        return self.bands if self.mask_band is None else tuple(sorted((*self.bands, self.mask_band)))

    @property
    def has_transform(self) -> bool:
        """Whether the pixels have a place in some reference system, named or not."""
        return not self.transform.is_identity

    def same_grid(self, other: "Header") -> bool:
        """Whether both files have the same pixels on the ground, as far as they say where they are."""
        return self.ratio(other) == 1

    def ratio(self, grid: "Header") -> int:
        """How many pixels of a grid, along each side, one of this file covers; 0 if they do not fit.

        They fit if the files cover the same ground, to 0.01 pixel, and the ratio is a whole number. Transforms are
        compared if both files have one, reference systems if both have one that is tied to the earth.
        """
        ratio = grid.height // self.height
        if (self.height * ratio, self.width * ratio) != (grid.height, grid.width):
            return 0
        if not (self.has_transform and grid.has_transform):
            return ratio
        if _on_earth(self.crs) and _on_earth(grid.crs) and self.crs != grid.crs:
            return 0
        near = 0.01 * max(abs(self.transform.a), abs(self.transform.b))
        # The far corner too: a small difference of the pixel size adds up.
        mine, theirs = ((*h.position(0.0, 0.0), *h.position(h.width, h.height)) for h in (self, grid))
        return ratio if all(abs(a - b) <= near for a, b in zip(mine, theirs, strict=True)) else 0

    def position(self, column: float | int, row: float | int) -> tuple[float, float]:
        """Coordinates, in the file's reference system, of a point given in pixels from the upper left corner."""
        t = self.transform
        return t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f

    def latlon(self, window: Window) -> Float[Array, "2"] | None:
        """Latitude and longitude, degrees, of a window's centre; None if the file does not tell."""
        if not (self.has_transform and _on_earth(self.crs)):
            return None
        x, y = self.position(window.left + window.width / 2, window.top + window.height / 2)
        try:
            longitude, latitude = reproject_points(self.crs, "EPSG:4326", [x], [y])
        except Exception:  # PROJ knows no way from this system; the class of GDAL's exceptions is private to rasterio
            return None
        latlon = np.array([latitude[0], longitude[0]])
        return latlon if np.isfinite(latlon).all() else None

    def gsd(self) -> float | None:
        """Metres per pixel (the mean of both directions; degrees as at the middle); None if the file does not tell."""
        if not (self.has_transform and _on_earth(self.crs)):
            return None
        width = float(np.hypot(self.transform.a, self.transform.d))
        height = float(np.hypot(self.transform.b, self.transform.e))
        if self.crs.is_geographic:
            _, latitude = self.position(self.width / 2, self.height / 2)
            return METRES_PER_DEGREE * (width * float(np.cos(np.radians(latitude))) + height) / 2
        return float(self.crs.linear_units_factor[1]) * (width + height) / 2


def _on_earth(crs: Any) -> bool:
    """Whether a reference system is projected or geographic, and not a local one of which only the name is known."""
    return crs is not None and bool(crs.is_projected or crs.is_geographic)


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

        Values are scaled and offset as the file says. A pixel is invalid where GDAL's mask of one of the bands excludes
        it (nodata values, with their tolerance; masks in the file or beside it; an alpha band, unless it is one of
        `bands`), where a band that declares no nodata value has `nodata`, before scaling, and where a value is not
        finite in float32. Invalid pixels are 0.

        Raises BrokenSampleError.
        """
        dataset, header = self._file(path)
        if window.top + window.height > header.height or window.left + window.width > header.width:
            raise BrokenSampleError(f"{path}: is {header.height}×{header.width}, too small for {window}")
        area = RasterWindow(window.left, window.top, window.width, window.height)
        masked = [band for band in bands if header.masked[band - 1]]
        try:
            raw: Shaped[Array, "c h w"] = dataset.read(list(bands), window=area)
            masks: Shaped[Array, "m h w"] = dataset.read_masks(masked, window=area) if masked else raw[:0]
            if header.mask_band is not None and header.mask_band not in bands:
                masks = np.concatenate([masks, dataset.read([header.mask_band], window=area)])
        except (RasterioError, OSError) as error:
            self._opened.cache_clear()
            raise BrokenSampleError(f"{path}: {_reason(error)}") from error
        valid: Bool[Array, "h w"] = np.asarray((masks > 0).all(0))
        for values, band in zip(raw, bands, strict=True):
            if nodata is not None and not header.declares_nodata[band - 1]:
                valid &= values != nodata
        scales = np.array([header.scales[band - 1] for band in bands])
        with np.errstate(over="ignore", invalid="ignore"):
            if (scales != (1, 0)).any():
                raw = raw * scales[:, 0, None, None] + scales[:, 1, None, None]
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
        beside = (Path(f"{stem}{ending}") for stem in (path, path.with_suffix("")) for ending in SIDECARS)
        for each in (path, *filter(os.path.exists, beside)):
            if special := not_a_file(each):  # GDAL may wait for ever
                raise BrokenSampleError(f"{each}: {special}")
        with warnings.catch_warnings():
            # Tiles without a place on the ground are fine: see `Header.has_transform`.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path)
            return dataset, _header(path, dataset)
    except (RasterioError, OSError, ValueError) as error:  # also of names that are not UTF-8, or hold NUL
        raise BrokenSampleError(f"{path}: {_reason(error)}") from error


def _header(path: Path, dataset: Any) -> Header:
    """The header of an open file. Raises BrokenSampleError if it is not one image of real numbers."""
    if dataset.subdatasets:
        count = len(dataset.subdatasets)
        raise BrokenSampleError(f"{path}: holds {count} images (pages or subdatasets); write them as bands of one")
    if "complex" in dataset.dtypes[0]:  # complex_int16 too, which numpy does not know
        raise BrokenSampleError(
            f"{path}: holds complex numbers ({dataset.dtypes[0]}); write amplitude and phase, or real and imaginary "
            "parts, as bands"
        )
    descriptions = [(name or "").strip() for name in dataset.descriptions]
    alpha = [i for i, meaning in enumerate(dataset.colorinterp) if meaning == ColorInterp.alpha and dataset.count > 1]
    mask_band = next((i + 1 for i in alpha if descriptions[i].casefold() in MASK_NAMES), None)
    bands = tuple(band for band in dataset.indexes if band != mask_band)
    names = tuple(descriptions[band - 1] for band in bands)
    flags = [set(each) for each in dataset.mask_flag_enums]
    return Header(
        path=path,
        height=dataset.height,
        width=dataset.width,
        bands=bands,
        names=names if all(names) and len(set(names)) == len(names) else (),
        mask_band=mask_band,
        scales=tuple(zip(dataset.scales, dataset.offsets, strict=True)),
        declares_nodata=tuple(value is not None for value in dataset.nodatavals),
        masked=tuple(not each & {MaskFlags.all_valid, MaskFlags.alpha} for each in flags),
        crs=dataset.crs,
        transform=dataset.transform,
        gcps=dataset.gcps,
    )


def _reason(error: Exception) -> str:
    """The error and its cause in GDAL, on one line."""
    causes = [error] if error.__cause__ is None else [error, error.__cause__]
    return " ".join(": ".join(map(str, causes)).split())

"""The file of a map: part files, joined by a VRT, then copied into one file.

GDAL's drivers for Cloud-Optimised and compressed GeoTIFFs write a file once and cannot change it afterwards, so a map
that is computed piece by piece is first written as pieces. Their overviews are made while they are in memory: GDAL
makes the second overview from the first on disk and decodes each of its blocks once per band, which for 64 bands takes
longer than everything else.
"""

import copy
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
import torch
from jaxtyping import Float, Shaped
from rasterio.control import GroundControlPoint
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from torch import Tensor

from hybrid_patch.data.source import Window
from hybrid_patch.embed.options import DType
from hybrid_patch.runs.atomic_files import write_bytes

Array = np.ndarray

MAX_BLOCK_BYTES = 4 * 2**20
"""Of a block of the file, all its bands, before compression."""
CACHED_ROWS, MAX_CACHE_BYTES = 3, 2**30
"""Rows of blocks in GDAL's cache while it copies (with fewer it reads blocks repeatedly), and their largest size."""
OVERVIEWS = 0.34
"""The size of all overviews relative to the image: 1/4 + 1/16 + ...."""
NODATA = {"float32": math.nan, "float16": math.nan, "int8": -128.0}
COMPRESSION = {"compress": "ZSTD", "num_threads": "ALL_CPUS", "bigtiff": "IF_SAFER"}


class MapFile(NamedTuple):
    """The format and metadata of a map's file.

    Attributes:
        height, width: pixels.
        crs, transform: rasterio's reference system (None: there is none) and affine transform.
        gcps: ground control points of the map, and their reference system.
        dtype: of its numbers. GDAL returns float16, numbers of half precision, as float32.
        descriptions: of the bands.
        scales, offsets: of the bands in int8: real value = scale × number + offset.
        tags: of the file.
        cog: whether it is Cloud-Optimised, with overviews.
    """

    height: int
    width: int
    crs: Any
    transform: Affine
    gcps: tuple[list[GroundControlPoint], Any]
    dtype: DType
    descriptions: Sequence[str]
    scales: Sequence[float]
    offsets: Sequence[float]
    tags: Mapping[str, str]
    cog: bool

    @property
    def stored(self) -> str:
        """The dtype of the arrays that are written, as numpy calls it."""
        return "int8" if self.dtype == "int8" else "float32"

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel in memory."""
        return len(self.descriptions) * np.dtype(self.stored).itemsize

    @property
    def block(self) -> int:
        """Side of a block, pixels: as large as `MAX_BLOCK_BYTES` and `MAX_CACHE_BYTES` allow, 16 to 256."""
        side = 256
        while side > 16 and (side**2 * self.pixel_bytes > MAX_BLOCK_BYTES or self.cache(side) > MAX_CACHE_BYTES):
            side //= 2
        return side

    @property
    def levels(self) -> int:
        """The number of overviews, each half as wide as the one before.

        The last fits into one block, unless the corners of parts would no longer be whole pixels before that.
        """
        needed = max(math.ceil(math.log2(max(self.height, self.width) / self.block)), 0)
        return min(needed, int(math.log2(self.block))) if self.cog else 0

    def cache(self, block: int) -> int:
        """Bytes of GDAL's cache with which a copy reads no block, of this side, twice."""
        return CACHED_ROWS * self.width * block * self.pixel_bytes

    @property
    def _tiled(self) -> dict[str, Any]:
        """Creation options of a GeoTIFF in blocks."""
        blocks = {"tiled": True, "blockxsize": self.block, "blockysize": self.block, "interleave": "pixel"}
        predictor = 2 if self.dtype == "int8" else 3
        return {"driver": "GTiff", **blocks, "predictor": predictor, "zstd_level": 1, **COMPRESSION}

    def encode(self, values: Shaped[Array, "k h w"], corner: tuple[int, int] = (0, 0), level: int = 0) -> bytes:
        """A part of the map, or of an overview, as a GeoTIFF; `corner` is the row and column where it begins."""
        k, height, width = values.shape
        profile = {"height": height, "width": width, "count": k, "dtype": self.stored, "nodata": NODATA[self.dtype]}
        if not self.transform.is_identity:
            profile["transform"] = self.transform * Affine.translation(*corner[::-1]) * Affine.scale(2**level)
        points, points_crs = self.gcps
        if points:  # of the whole map, which is right in the first part: the others' places are not looked at
            profile["gcps"] = scaled_points((points, points_crs), 2**level)[0]
        if self.crs is not None or points:
            profile["crs"] = self.crs or points_crs
        if self.dtype == "float16":
            profile["nbits"] = 16
        # In memory first: GDAL may not report a full disk.
        with MemoryFile() as memory:
            with memory.open(**profile, **self._tiled) as dataset:
                dataset.write(values)
                dataset.descriptions = self.descriptions
                if self.dtype == "int8":
                    dataset.scales, dataset.offsets = self.scales, self.offsets
                dataset.update_tags(**self.tags)
            return bytes(memory.getbuffer())

    def write_part(
        self, path: Path, values: Shaped[Array, "k h w"], corner: tuple[int, int], check: Callable[[], None]
    ) -> None:
        """Write a part atomically, after its overviews, which are files beside it. `check` comes before each. Raises
        OSError."""
        encoded = [self.encode(values, corner)]
        for level in range(1, self.levels + 1):
            values = halve(values, NODATA[self.dtype])
            encoded.append(self.encode(values, corner, level))
        for level in range(self.levels, -1, -1):
            check()
            write_bytes(_at_level(path, level), encoded[level])

    def join(self, path: Path, parts: Mapping[Path, Window]) -> None:
        """Write a VRT of all parts, which are in its folder, and one of each of their overviews.

        GDAL describes the first part in a VRT, with the metadata of the whole map; then the others are added to it. A
        VRT of an earlier start is removed before: to replace one, GDAL deletes files that it names, which are parts.
        """
        for level in range(self.levels + 1):
            joined = _at_level(path, level)
            joined.unlink(missing_ok=True)
            rasterio.shutil.copy(_at_level(next(iter(parts)), level), joined, driver="VRT")
            root = ElementTree.parse(joined).getroot()
            width, height = (str(-(-side // 2**level)) for side in (self.width, self.height))
            root.attrib |= {"rasterXSize": width, "rasterYSize": height}
            for band in root.iter("VRTRasterBand"):
                first = band[-1]
                band.remove(first)
                band.extend(_source(first, _at_level(part, level), window, 2**level) for part, window in parts.items())
            write_bytes(joined, ElementTree.tostring(root))

    def copy(self, joined: Path, into: Path) -> None:
        """Copy all parts into one file, Cloud-Optimised with overviews or else tiled; on disk when this returns.

        Raises OSError if that failed.
        """
        cog = {"driver": "COG", "blocksize": self.block, "level": 1, "predictor": "YES", **COMPRESSION}
        try:
            rasterio.shutil.copy(joined, into, **(cog if self.cog else self._tiled))
            with into.open("rb") as file:
                os.fsync(file.fileno())
            _check_complete(into)
            self._check_placed(into)
        except OSError:
            raise
        except Exception as error:  # rasterio's errors, and GDAL's, whose classes are private to rasterio
            raise OSError(f"{into.name}: {error}") from error

    def _check_placed(self, path: Path) -> None:
        """Raise OSError if the file is not where the map is on the ground, or has other bands."""
        with rasterio.open(path) as file:
            points, points_crs = file.gcps
            same = {
                "size": (file.height, file.width, file.count) == (self.height, self.width, len(self.descriptions)),
                "transform": np.allclose(tuple(file.transform), tuple(self.transform), rtol=1e-12, atol=0),
                "reference system": (file.crs, points_crs) == (self.crs, self.gcps[1]),
                "control points": np.array_equal(_positions(points), _positions(self.gcps[0])),
            }
        lost = ", ".join(name for name, equal in same.items() if not equal)
        if lost:
            raise OSError(f"{path.name}: GDAL has written another {lost} than the scene's")


def tags_of(path: Path) -> dict[str, str]:
    """The tags of a GeoTIFF; none of anything else."""
    try:
        with rasterio.open(path) as file:
            return file.tags()
    except rasterio.RasterioIOError:
        return {}


def _positions(points: Sequence[GroundControlPoint]) -> list[tuple[float, ...]]:
    return [(point.row, point.col, point.x, point.y) for point in points]


def scaled_points(gcps: tuple[list[GroundControlPoint], Any], factor: int) -> tuple[list[GroundControlPoint], Any]:
    """Ground control points, and their reference system, of an image whose pixels are `factor` times as wide."""
    points, crs = gcps
    return [GroundControlPoint(p.row / factor, p.col / factor, p.x, p.y, p.z) for p in points], crs


def halve(values: Shaped[Array, "k h w"], nodata: float) -> Shaped[Array, "k h2 w2"]:
    """An image of half the side: means of the valid pixels among 2 × 2, nodata where there is none.

    A pixel is valid in all bands or in none.
    """

    def sums(band: Float[Tensor, "h w"]) -> Float[Tensor, "h2 w2"]:
        return torch.nn.functional.avg_pool2d(band[None], 2, ceil_mode=True, divisor_override=1)[0]

    valid_mask = torch.from_numpy(~np.isnan(values[0]) if math.isnan(nodata) else values[0] != nodata)
    count = sums(valid_mask.float())
    half = np.empty((len(values), *count.shape), values.dtype)
    for band, into in zip(values, half, strict=True):
        mean = (sums(torch.from_numpy(band).float().where(valid_mask, 0)) / count).nan_to_num(nodata)
        into[...] = mean.round() if values.dtype == np.int8 else mean
    return half


def _at_level(path: Path, level: int) -> Path:
    """The path of an overview of a file, where GDAL looks for it."""
    return path.with_name(path.name + ".ovr" * level)


def _source(first: ElementTree.Element, part: Path, window: Window, factor: int) -> ElementTree.Element:
    """A part as a source of a VRT's band, like the first part, which is at the upper left."""
    source = copy.deepcopy(first)
    top, left, height, width = (str(-(-x // factor)) for x in dataclasses.astuple(window))
    attributes = {
        "SourceProperties": {"RasterXSize": width, "RasterYSize": height},
        "SrcRect": {"xSize": width, "ySize": height},
        "DstRect": {"xOff": left, "yOff": top, "xSize": width, "ySize": height},
    }
    for element in source:
        element.attrib |= attributes.get(element.tag, {})
        if element.tag == "SourceFilename":
            element.text = part.name
    return source


def _check_complete(path: Path) -> None:
    """Raise OSError if a block that a GeoTIFF lists is not inside it: GDAL may not report that a write has failed."""
    length = path.stat().st_size
    with rasterio.open(path) as dataset:
        levels = len(dataset.overviews(1))
    for level in (None, *range(levels)):
        with rasterio.open(path, overview_level=level) as image:
            for (y, x), _ in image.block_windows(1):
                offset, size = (
                    image.get_tag_item(f"BLOCK_{tag}_{x}_{y}", "TIFF", bidx=1) for tag in ("OFFSET", "SIZE")
                )
                if offset is None or int(offset) + int(size) > length:
                    raise OSError(f"{path.name}: a part of it was not written")

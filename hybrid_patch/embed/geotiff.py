"""The file of a map: part files, joined by a VRT, then copied into one file.

GDAL's drivers for Cloud-Optimised and compressed GeoTIFFs write a file once and cannot change it afterwards, so a map
that is computed piece by piece is first written as pieces. Their overviews are made while they are in memory: GDAL
makes the second overview from the first on disk and decodes each of its blocks once per band, which for 64 bands takes
longer than everything else.
"""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from jaxtyping import Shaped
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from hybrid_patch.data.source import Window
from hybrid_patch.embed.options import DType
from hybrid_patch.errors import InputError
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
        crs, transform: rasterio's reference system (None: not georeferenced) and affine transform.
        dtype: of its numbers. GDAL returns float16, numbers of half precision, as float32.
        descriptions: of the bands.
        scales, offsets: of the bands: real value = scale × number + offset.
        tags: of the file.
        cog: whether it is Cloud-Optimised, with overviews.
    """

    height: int
    width: int
    crs: Any
    transform: Any
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
        while side > 16 and (side**2 * self.pixel_bytes > MAX_BLOCK_BYTES or self._rows(side) > MAX_CACHE_BYTES):
            side //= 2
        return side

    @property
    def levels(self) -> int:
        """The number of overviews, each half as wide as the one before.

        The last fits into one block, unless the corners of parts would no longer be whole pixels before that.
        """
        needed = max(math.ceil(math.log2(max(self.height, self.width) / self.block)), 0)
        return min(needed, int(math.log2(self.block))) if self.cog else 0

    @property
    def cache(self) -> int:
        """Bytes of GDAL's cache with which a copy reads no block twice."""
        return self._rows(self.block)

    def _rows(self, block: int) -> int:
        return CACHED_ROWS * self.width * block * self.pixel_bytes

    @property
    def _tiled(self) -> dict[str, Any]:
        """Creation options of a GeoTIFF in blocks."""
        blocks = {"tiled": True, "blockxsize": self.block, "blockysize": self.block, "interleave": "pixel"}
        predictor = 2 if self.dtype == "int8" else 3
        return {"driver": "GTiff", **blocks, "predictor": predictor, "zstd_level": 1, **COMPRESSION}

    def encode(self, values: Shaped[Array, "k h w"], corner: tuple[int, int] | None = None) -> bytes:
        """A part of the map as a GeoTIFF; its upper left pixel is in a row and column (None: not georeferenced)."""
        k, height, width = values.shape
        profile = {"height": height, "width": width, "count": k, "dtype": self.stored, "nodata": NODATA[self.dtype]}
        if self.dtype == "float16":
            profile["nbits"] = 16
        if self.crs is not None and corner is not None:
            row, column = corner
            t = self.transform
            x, y = t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f
            profile |= {"crs": self.crs, "transform": Affine(t.a, t.b, x, t.d, t.e, y)}
        # In memory first: GDAL may not report a full disk.
        with MemoryFile() as memory:
            with memory.open(**profile, **self._tiled) as dataset:
                dataset.write(values)
            return bytes(memory.getbuffer())

    def write_part(self, path: Path, values: Shaped[Array, "k h w"], corner: tuple[int, int]) -> None:
        """Write a part atomically, after its overviews, which are files beside it. Raises OSError."""
        images = [values]
        for _ in range(self.levels):
            images.append(halve(images[-1], NODATA[self.dtype]))
        for level in range(self.levels, -1, -1):
            encoded = self.encode(images.pop(), None if level else corner)
            write_bytes(_at_level(path, level), encoded)

    def join(self, path: Path, parts: Mapping[Path, Window], level: int = 0) -> None:
        """Write a VRT of all parts, and one for each overview; parts are named relative to its folder."""
        if level < self.levels:
            self.join(path, parts, level + 1)
        height, width = (-(-side // 2**level) for side in (self.height, self.width))
        root = ElementTree.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
        if self.crs is not None and level == 0:
            _add(root, "SRS", self.crs.to_wkt())
            _add(root, "GeoTransform", ", ".join(map(repr, self.transform.to_gdal())))
        _add_metadata(root, self.tags)
        for number in range(1, len(self.descriptions) + 1):
            band = self._add_band(root, number)
            for other in range(1, self.levels + 1) if level == 0 else ():
                overview = _add(band, "Overview")
                _add(overview, "SourceFilename", _at_level(path, other).name, relativeToVRT=1)
                _add(overview, "SourceBand", number)
            for part, window in parts.items():
                scaled = Window(*(-(-x // 2**level) for x in (window.top, window.left, window.height, window.width)))
                self._add_part(band, number, os.path.relpath(_at_level(part, level), path.parent), scaled)
        write_bytes(_at_level(path, level), ElementTree.tostring(root))

    @property
    def _vrt_type(self) -> str:
        return "Int8" if self.dtype == "int8" else "Float32"

    def _add_band(self, root: ElementTree.Element, number: int) -> ElementTree.Element:
        blocks = {"blockXSize": self.block, "blockYSize": self.block}
        band = _add(root, "VRTRasterBand", dataType=self._vrt_type, band=number, **blocks)
        _add(band, "Description", self.descriptions[number - 1])
        _add(band, "NoDataValue", NODATA[self.dtype])
        if self.dtype == "int8":
            _add(band, "Offset", repr(float(self.offsets[number - 1])))
            _add(band, "Scale", repr(float(self.scales[number - 1])))
        if self.dtype == "float16":
            _add_metadata(band, {"NBITS": "16"}, domain="IMAGE_STRUCTURE")
        return band

    def _add_part(self, band: ElementTree.Element, number: int, file: str, window: Window) -> None:
        source = _add(band, "SimpleSource")
        _add(source, "SourceFilename", file, relativeToVRT=1, shared=1)
        _add(source, "SourceBand", number)
        size = {"RasterXSize": window.width, "RasterYSize": window.height}
        blocks = {"BlockXSize": self.block, "BlockYSize": self.block}
        _add(source, "SourceProperties", DataType=self._vrt_type, **size, **blocks)
        _add(source, "SrcRect", xOff=0, yOff=0, xSize=window.width, ySize=window.height)
        _add(source, "DstRect", xOff=window.left, yOff=window.top, xSize=window.width, ySize=window.height)

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
        except OSError:
            raise
        except Exception as error:  # rasterio's errors, and GDAL's, whose classes are private to rasterio
            raise OSError(f"{into.name}: {error}") from error


def halve(values: Shaped[Array, "k h w"], nodata: float) -> Shaped[Array, "k h2 w2"]:
    """An image of half the side: means of the valid pixels among 2 × 2, nodata where there is none."""
    k, height, width = values.shape
    half = np.empty((k, -(-height // 2), -(-width // 2)), values.dtype)
    for band, into in zip(values, half, strict=True):
        even = np.pad(band, ((0, height % 2), (0, width % 2)), constant_values=nodata)
        corners = [even[y::2, x::2] for y in (0, 1) for x in (0, 1)]
        masks = [~np.isnan(corner) if math.isnan(nodata) else corner != nodata for corner in corners]
        if all(mask.all() for mask in masks):
            mean = sum(corner.astype(np.float32) for corner in corners) / 4
        else:
            total = sum(np.where(mask, x, 0).astype(np.float32) for mask, x in zip(masks, corners, strict=True))
            count = sum(mask.astype(np.float32) for mask in masks)
            mean = np.where(count > 0, total / np.maximum(count, 1), nodata)
        into[...] = mean if math.isnan(nodata) else np.rint(mean)
    return half


def check_disk(folder: Path, needed: float, what: str) -> None:
    """Raise InputError if a folder's disk has less free space than is needed."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{what}: needs about {needed / 1e9:.3g} GB in {folder}, where {free / 1e9:.3g} GB are free; try another "
            "disk, fewer dims, dtype=int8 or cog=false"
        )


def _at_level(path: Path, level: int) -> Path:
    """The path of an overview of a file."""
    return path.with_name(f"{path.stem}.{level}{path.suffix}") if level else path


def _add(parent: ElementTree.Element, tag: str, text: object = None, **attributes: object) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag, {key: str(value) for key, value in attributes.items()})
    element.text = None if text is None else str(text)
    return element


def _add_metadata(parent: ElementTree.Element, values: Mapping[str, str], **attributes: str) -> None:
    element = _add(parent, "Metadata", **attributes)
    for key, text in values.items():
        _add(element, "MDI", text, key=key)


def _check_complete(path: Path) -> None:
    """Raise OSError if a block that a GeoTIFF lists is not inside it: GDAL may not report that a write has failed."""
    length = path.stat().st_size
    with rasterio.open(path) as dataset:
        for level in range(-1, len(dataset.overviews(1))):
            with rasterio.open(path, **({} if level < 0 else {"overview_level": level})) as image:
                side_y, side_x = image.block_shapes[0]
                rows, columns = math.ceil(image.height / side_y), math.ceil(image.width / side_x)
            overview = {} if level < 0 else {"ovr": level}
            for y, x in np.ndindex(rows, columns):
                offset, size = (
                    dataset.get_tag_item(f"BLOCK_{tag}_{x}_{y}", "TIFF", bidx=1, **overview)
                    for tag in ("OFFSET", "SIZE")
                )
                if offset is None or int(offset) + int(size) > length:
                    raise OSError(f"{path.name}: a part of it was not written")

"""The file of a map: whole part files, joined by a VRT, then one copy of them all under a temporary name.

GDAL's drivers for Cloud-Optimised and compressed GeoTIFFs write a file once and do not change it again, so that a map
that is made piece by piece is made of pieces.
"""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from jaxtyping import Shaped
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from hybrid_patch.data.source import Window
from hybrid_patch.embed.overviews import halve, levels
from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_bytes

Array = np.ndarray
DType = Literal["float32", "float16", "int8"]

BLOCK_BYTES = 4 * 2**20
"""The most that a block of the file, all its bands, takes before compression."""
CACHED_ROWS, CACHE_BYTES = 3, 2**30
"""Rows of blocks that GDAL's cache holds while it copies; fewer might be read again and again. And the most that they
may take."""
OVERVIEWS = 0.34
"""What overviews take, relative to the image: 1/4 + 1/16 + ...."""
NODATA = {"float32": math.nan, "float16": math.nan, "int8": -128.0}
COMPRESSION = {"compress": "ZSTD", "num_threads": "ALL_CPUS", "bigtiff": "IF_SAFER"}


class MapFile(NamedTuple):
    """What a map's file holds.

    Attributes:
        height, width: pixels.
        crs, transform: rasterio's reference system (None: not georeferenced) and affine transform.
        dtype: of its numbers. float16 are numbers of half precision; GDAL hands them out as float32.
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
        """The type of the arrays that are written, as numpy calls it."""
        return "int8" if self.dtype == "int8" else "float32"

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel in memory."""
        return len(self.descriptions) * np.dtype(self.stored).itemsize

    @property
    def block(self) -> int:
        """Side of a block, pixels: as large as `BLOCK_BYTES` and `CACHE_BYTES` allow, 16 to 256."""
        side = 256
        while side > 16 and (side**2 * self.pixel_bytes > BLOCK_BYTES or self._rows(side) > CACHE_BYTES):
            side //= 2
        return side

    @property
    def levels(self) -> int:
        """The number of overviews."""
        return levels(self.height, self.width, self.block) if self.cog else 0

    @property
    def cache(self) -> int:
        """Bytes of GDAL's cache in which a copy reads no block twice."""
        return self._rows(self.block)

    def _rows(self, block: int) -> int:
        return CACHED_ROWS * self.width * block * self.pixel_bytes

    def encode(self, values: Shaped[Array, "k h w"], corner: tuple[int, int] | None = None) -> bytes:
        """A GeoTIFF of a part of the map whose upper left pixel is in a row and column (None: nowhere)."""
        k, height, width = values.shape
        profile = {
            "driver": "GTiff",
            "height": height,
            "width": width,
            "count": k,
            "dtype": self.stored,
            "nodata": NODATA[self.dtype],
            "tiled": True,
            "blockxsize": self.block,
            "blockysize": self.block,
            "interleave": "pixel",
            "predictor": 2 if self.dtype == "int8" else 3,
            "zstd_level": 1,
            **({"nbits": 16} if self.dtype == "float16" else {}),
            **COMPRESSION,
        }
        if self.crs is not None and corner is not None:
            row, column = corner
            t = self.transform
            profile |= {
                "crs": self.crs,
                "transform": Affine(t.a, t.b, t.a * column + t.b * row + t.c, t.d, t.e, t.d * column + t.e * row + t.f),
            }
        # In memory first: of a disk that is full GDAL may say nothing.
        with MemoryFile() as memory:
            with memory.open(**profile) as dataset:
                dataset.write(values)
            return bytes(memory.getbuffer())

    def write_part(self, path: Path, values: Shaped[Array, "k h w"], corner: tuple[int, int]) -> None:
        """`encode` into a file, and overviews beside it; whole, and last, or not at all. Raises OSError."""
        images = [values]
        for _ in range(self.levels):
            images.append(halve(images[-1], NODATA[self.dtype]))
        for level in range(self.levels, -1, -1):
            encoded = self.encode(images.pop(), None if level else corner)
            write_bytes(_of_level(path, level), encoded)

    def join(self, path: Path, parts: Mapping[Path, Window], level: int = 0) -> None:
        """A VRT of all parts, and one for each overview; they are named relative to its folder."""
        if level < self.levels:
            self.join(path, parts, level + 1)
        height, width = (-(-side // 2**level) for side in (self.height, self.width))
        root = ElementTree.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
        if self.crs is not None and level == 0:
            ElementTree.SubElement(root, "SRS").text = self.crs.to_wkt()
            ElementTree.SubElement(root, "GeoTransform").text = ", ".join(map(repr, self.transform.to_gdal()))
        _metadata(root, self.tags)
        kind = "Int8" if self.dtype == "int8" else "Float32"
        for number, description in enumerate(self.descriptions, 1):
            band = ElementTree.SubElement(
                root,
                "VRTRasterBand",
                dataType=kind,
                band=str(number),
                blockXSize=str(self.block),
                blockYSize=str(self.block),
            )
            texts = {"Description": description, "NoDataValue": str(NODATA[self.dtype])}
            if self.dtype == "int8":
                texts |= {
                    "Offset": repr(float(self.offsets[number - 1])),
                    "Scale": repr(float(self.scales[number - 1])),
                }
            for key, text in texts.items():
                ElementTree.SubElement(band, key).text = text
            if self.dtype == "float16":
                _metadata(band, {"NBITS": "16"}, domain="IMAGE_STRUCTURE")
            for other in range(1, self.levels + 1) if level == 0 else ():
                overview = ElementTree.SubElement(band, "Overview")
                name = ElementTree.SubElement(overview, "SourceFilename", relativeToVRT="1")
                name.text = _of_level(path, other).name
                ElementTree.SubElement(overview, "SourceBand").text = str(number)
            for part, whole in parts.items():
                sides = (whole.top, whole.left, whole.height, whole.width)
                place = Window(*(-(-x // 2**level) for x in sides))
                source = ElementTree.SubElement(band, "SimpleSource")
                name = ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1", shared="1")
                name.text = os.path.relpath(_of_level(part, level), path.parent)
                ElementTree.SubElement(source, "SourceBand").text = str(number)
                size = {"RasterXSize": str(place.width), "RasterYSize": str(place.height)}
                block = {"BlockXSize": str(self.block), "BlockYSize": str(self.block)}
                ElementTree.SubElement(source, "SourceProperties", {"DataType": kind, **size, **block})
                extent = {"xSize": str(place.width), "ySize": str(place.height)}
                ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **extent})
                ElementTree.SubElement(source, "DstRect", {"xOff": str(place.left), "yOff": str(place.top), **extent})
        write_bytes(_of_level(path, level), ElementTree.tostring(root))

    def copy(self, joined: Path, into: Path) -> None:
        """One file of all parts: Cloud-Optimised with overviews, or else tiled. On the disk when this returns.

        Raises OSError if that could not be written.
        """
        options: dict[str, Any] = dict(COMPRESSION)
        if self.cog:
            options |= {"driver": "COG", "blocksize": self.block, "level": 1, "predictor": "YES"}
        else:
            options |= {"driver": "GTiff", "tiled": True, "blockxsize": self.block, "blockysize": self.block}
            options |= {"interleave": "pixel", "zstd_level": 1, "predictor": 2 if self.dtype == "int8" else 3}
        try:
            rasterio.shutil.copy(joined, into, **options)
            with into.open("rb") as file:
                os.fsync(file.fileno())
            _check_whole(into)
        except (RasterioError, rasterio._err.CPLE_BaseError) as error:
            raise OSError(f"{into.name}: {' '.join(str(error).split())}") from error


def _of_level(path: Path, level: int) -> Path:
    """Where the overview of a level is beside a file."""
    return path.with_name(f"{path.stem}.{level}{path.suffix}") if level else path


def _metadata(parent: ElementTree.Element, values: Mapping[str, str], **attributes: str) -> None:
    element = ElementTree.SubElement(parent, "Metadata", attributes)
    for key, text in values.items():
        ElementTree.SubElement(element, "MDI", key=key).text = text


def _check_whole(path: Path) -> None:
    """All blocks that a GeoTIFF lists are inside it: what GDAL could not write it may not have told."""
    length = path.stat().st_size
    with rasterio.open(path) as dataset:
        for level in range(-1, len(dataset.overviews(1))):
            with rasterio.open(path, **({} if level < 0 else {"overview_level": level})) as image:
                side_y, side_x = image.block_shapes[0]
                rows, columns = math.ceil(image.height / side_y), math.ceil(image.width / side_x)
            of_level = {} if level < 0 else {"ovr": level}
            for y, x in np.ndindex(rows, columns):
                place, size = (
                    dataset.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=1, **of_level)
                    for what in ("OFFSET", "SIZE")
                )
                if place is None or int(place) + int(size) > length:
                    raise OSError(f"{path.name}: a part of it was not written")


def check_disk(folder: Path, needed: float, what: str) -> None:
    """Raise InputError if a folder's disk has less free than is needed."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{what}: needs about {needed / 1e9:.3g} GB in {folder}, where {free / 1e9:.3g} GB are free; would do: "
            "another disk, fewer dims, dtype=int8, cog=false"
        )

"""Small folders of GeoTIFFs for the tests, and the configuration of a source of them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.rasters import Rasters
from hybrid_patch.data.rasters.source import RasterSource
from hybrid_patch.data.source import Sample, Window
from hybrid_patch.errors import InputError

Array = np.ndarray


def config(root: Path, **changes: Any) -> Rasters:
    values: dict[str, Any] = {
        "name": "rasters",
        "root": str(root),
        "tile": 16,
        "timesteps": 4,
        "modalities": {},
        "on_error": "raise",
        "max_skipped": 0.1,
        "labels": None,
        "label_kind": "classes",
        "label_classes": None,
        "label_nodata": None,
        "block": 16,
        "val_share": 0.25,
    }
    return Rasters(**values | changes)


def modality(*bands: str, temporal: bool = False, files: str | None = None) -> Modality:
    return Modality(bands=bands, band_sets=(bands,), temporal=temporal, gsd=10.0, files=files)


def write(path: Path, image: Array, names: tuple[str, ...] = (), **profile: Any) -> Path:
    """Write `[C, H, W]` as a GeoTIFF in UTM zone 31 (unless the profile says otherwise)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = image.shape
    place: dict[str, Any] = {"crs": "EPSG:32631", "transform": Affine(10, 0, 664000, 0, -10, 5612120)}
    size = {"count": count, "height": height, "width": width, "dtype": image.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", **size | place | profile) as file:
            file.write(image)
            for number, name in enumerate(names, 1):
                file.set_band_description(number, name)
    return path


def ramp(bands: int, height: int, width: int, offset: int = 0) -> Array:
    """An image without two equal values."""
    return np.arange(offset, offset + bands * height * width, dtype=np.int32).reshape(bands, height, width)


def whole(source: RasterSource, index: int) -> Sample:
    height, width, length = source.shape(index)
    return source.read(index, Window(0, 0, height, width), np.arange(length))


def expect_line(given_config: Rasters, message: str) -> None:
    with pytest.raises(InputError) as caught:
        RasterSource(given_config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def make_tiles(root: Path) -> Path:
    """Eight tiles of 24 × 20 pixels with labels."""
    for number in range(8):
        place = Affine(10, 0, 664000 + 200 * number, 0, -10, 5612120)
        write(root / f"images/t{number}.tif", ramp(3, 24, 20, number), ("blue", "green", "red"), transform=place)
        write(root / f"labels/t{number}.tif", np.full((1, 24, 20), number % 3, np.uint8), nodata=255, transform=place)
    return root


def make_series(root: Path) -> Path:
    """Optical and radar series on different dates, with a static layer and labels, 40 × 52 pixels."""
    for month in (1, 2, 4):
        write(root / f"s2/2021-0{month}-15.tif", ramp(2, 40, 52, 10**5 * month), ("B02", "B03"), nodata=10**5)
    for month in (2, 3):
        write(root / f"s1/2021-0{month}-15_asc.tif", ramp(1, 40, 52).astype(np.float32), ("VV",))
    write(root / "height.tif", ramp(1, 40, 52))
    write(root / "labels.tif", (ramp(1, 40, 52) % 4).astype(np.uint8))
    return root

"""Small scenes, a run, and the command, in this process and in one of its own."""

import io
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import rasterio
from building import TINY, trained_run
from rasterio.transform import from_origin

from hybrid_patch.cost.map_benchmark import BY_RESOLUTION, OPTICAL_ALONE
from hybrid_patch.embed import __main__ as embed_command

Array = np.ndarray

BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
TILE = 32
DATE = "2024-05-31"
SMALL_PARTS = """
import sys, time
from hybrid_patch.embed import geotiff, make_map, map_parts
map_parts.MAX_STRIP_BYTES = map_parts.MAX_PART_BYTES = 1
"""
"""A program's first lines: parts of a single block each."""
RUN = "from hybrid_patch.embed.__main__ import main; main()"


def make_run(folder: Path, *overrides: str) -> Path:
    """A tiny run of Sentinel-2 in three band sets, after a step."""
    sets = f"data.modalities.sentinel2_l2a.band_sets={BY_RESOLUTION}"
    return trained_run(folder, *TINY, *OPTICAL_ALONE, f"data.tile={TILE}", sets, *overrides, steps=1)


def values(height: int, width: int, seed: int = 0) -> Array:
    """`[12, H, W]` int16: ground of 8 pixels and noise."""
    rng = np.random.default_rng(seed)
    ground = rng.normal(size=(12, -(-height // 8), -(-width // 8))).repeat(8, 1).repeat(8, 2)[:, :height, :width]
    return (2000 + 900 * ground + 200 * rng.normal(size=(12, height, width))).astype(np.int16)


def write(
    path: Path,
    image: Array,
    names: Sequence[str] = BANDS,
    pixel: float = 10.0,
    nodata: int | None = -9999,
    **elsewhere: Any,
) -> Path:
    """A GeoTIFF in UTM, unless it is said to be elsewhere; its bands named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = image.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": image.dtype}
    place = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_100_000, pixel, pixel), "nodata": nodata}
    place = {key: value for key, value in {**place, **elsewhere}.items() if value is not None}
    with rasterio.open(path, "w", **profile, **place) as dataset:
        dataset.write(image)
        for number, name in enumerate(names, 1):
            dataset.set_band_description(number, name)
    return path


def call(*arguments: str) -> tuple[int, str]:
    """The command in this process: its exit code, and what it wrote to stderr."""
    stderr, code = io.StringIO(), 0
    with mock.patch.object(sys, "argv", ["embed", *arguments]), redirect_stderr(stderr):
        try:
            embed_command.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, stderr.getvalue()


def embed(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(command(*arguments, before=before), capture_output=True, text=True, timeout=240)


def command(*arguments: str, before: str = "") -> list[str]:
    """Its command line, with lines of a program that come first."""
    return [sys.executable, "-c", before + RUN, *arguments]


def read(path: Path) -> Array:
    """`[k, H, W]`, real values, NaN where there are none."""
    with rasterio.open(path) as dataset:
        image = dataset.read().astype(np.float64)
        image[image == dataset.nodata] = np.nan
        scales, offsets = (np.array(x)[:, None, None] for x in (dataset.scales, dataset.offsets))
        return image * scales + offsets

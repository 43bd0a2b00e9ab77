"""What is said of a data set at the start of a run, and by `hybrid-patch data describe`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from raster_folders import Array, config, modality, write
from rasterio import Affine

from hybrid_patch.data.description import describe
from hybrid_patch.data.rasters.source import RasterSource

RNG = np.random.default_rng(0)


def make(root: Path, image: Array | None = None, *, odd: float = 1.0) -> Path:
    """Eight tiles of two bands; the values of the last are `odd` times as large."""
    for number in range(8):
        place = Affine(10, 0, 664000 + 1000 * number, 0, -10, 5612120)
        pixels = RNG.uniform(0.1, 0.4, (2, 32, 32)).astype(np.float32) if image is None else image
        write(
            root / f"images/t{number}.tif", pixels * (odd if number == 7 else 1), ("a", "b"), transform=place, nodata=-1
        )
        labels = np.zeros((1, 32, 32), np.uint8)
        labels[:, :8], labels[:, 8:16] = 1, 255
        write(root / f"labels/t{number}.tif", labels, transform=place, nodata=255)
    return root


def test_figures(tmp_path: Path) -> None:
    image = RNG.uniform(0.1, 0.4, (2, 32, 32)).astype(np.float32)
    image[:, :8] = -1
    description = describe(RasterSource(config(make(tmp_path, image), label_classes=("field", "water"))))
    assert description.samples == {"train": 6, "val": 2}
    assert (
        description.groups,
        description.looked_at,
        description.height,
        description.timesteps,
        description.dates,
    ) == (8, 8, (32, 32), (1, 1), None)
    assert description.modalities["images"].missing == pytest.approx(0.25)
    assert description.classes == {"field": pytest.approx(2 / 3), "water": pytest.approx(1 / 3)}
    assert description.labelled == pytest.approx(0.75)
    assert description.warnings == ()
    text = "\n".join(description.lines())
    assert "samples: 6 train, 2 val; groups: 8; looked at: 8" in text
    assert "images: 2 bands, static, 10 m, 25.0% missing" in text
    assert "classes: field 66.7%, water 33.3%; 75.0% labelled" in text


def test_a_tile_in_other_units_is_named(tmp_path: Path) -> None:
    (line,) = describe(RasterSource(config(make(tmp_path, odd=1e4)))).warnings
    assert "t7.tif" in line
    assert "other units?" in line


def test_values_far_from_the_declared_statistics_are_said(tmp_path: Path) -> None:
    declared = {"images": replace(modality("a", "b"), mean=(2500.0, 2500.0), std=(1000.0, 1000.0))}
    (line,) = describe(RasterSource(config(make(tmp_path, odd=1), modalities=declared))).warnings
    assert "far from its declared mean and std: other units?" in line


def test_a_fill_value_that_nobody_declares_is_named(tmp_path: Path) -> None:
    image = RNG.uniform(0.1, 0.4, (2, 32, 32)).astype(np.float32)
    image[1, :2] = -9999
    (line,) = describe(RasterSource(config(make(tmp_path, image)))).warnings
    assert line.startswith("data.modalities.images: 6.2% of band b is -9999, far from the rest, first in ")
    assert "t0.tif" in line or "t1.tif" in line


def test_a_map_of_two_values_has_no_fill_value(tmp_path: Path) -> None:
    image = (RNG.uniform(size=(2, 32, 32)) > 0.4).astype(np.float32)
    assert describe(RasterSource(config(make(tmp_path, image)))).warnings == ()


def test_black_borders_and_clouds_are_no_fill_values(tmp_path: Path) -> None:
    image = RNG.uniform(0.1, 0.4, (2, 32, 32)).astype(np.float32)
    image[:, :3], image[:, 30:] = 0.0, 1.0
    assert describe(RasterSource(config(make(tmp_path, image)))).warnings == ()

"""Files as people have them: what a file says about itself counts, and nothing is dropped without a word."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.testing import assert_allclose, assert_array_equal
from raster_folders import config, expect_line, whole, write
from rasterio import Affine

from hybrid_patch.data.rasters.geotiff import RasterFiles
from hybrid_patch.data.rasters.source import RasterSource
from hybrid_patch.data.source import BrokenSampleError, Window
from hybrid_patch.errors import InputError

SIDE = 32
BANDS = ("B02", "B03", "B04", "B08")
RNG = np.random.default_rng(0)
Array = np.ndarray


def place(column: int = 0) -> Affine:
    """The transform of a tile, `column` tiles east of the first."""
    return Affine(10, 0, 500000, 0, -10, 5200000) @ Affine.translation(SIDE * column, 0)


def numbers(bands: int = 4, side: int = SIDE, dtype: str = "uint16") -> Array:
    """Digital numbers of an image."""
    return RNG.integers(3, 250 if dtype == "uint8" else 5000, (bands, side, side)).astype(dtype)


def make(
    root: Path, image: Array | None = None, names: tuple[str, ...] = BANDS, suffix: str = ".tif", **more: object
) -> Path:
    """Six tiles side by side."""
    for number in range(6):
        pixels = numbers() if image is None else image
        write(root / f"images/t{number}{suffix}", pixels, names[: len(pixels)], transform=place(number), **more)
    return root


def scaled(path: Path, scale: float, offset: float) -> None:
    """Write scale and offset tags."""
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (scale,) * file.count, (offset,) * file.count


# --- bands and masks --------------------------------------------------------------------------------------------------
def test_a_fourth_band_with_a_name_is_no_mask(tmp_path: Path) -> None:
    image = numbers(dtype="uint8")
    image[3, :5] = 0
    source = RasterSource(config(make(tmp_path, image, ("red", "green", "blue", "nir"))))
    sample = whole(source, 0)
    assert source.modalities["images"].bands == ("red", "green", "blue", "nir")
    assert sample.valid["images"].all()
    assert_array_equal(sample.images["images"][:, :, 0], image.transpose(1, 2, 0))


def test_a_fourth_band_without_a_name_is_the_mask_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = numbers(dtype="uint8")
    image[3, :5] = 0
    source = RasterSource(config(make(tmp_path, image, ())))
    assert source.modalities["images"].bands == ("band_1", "band_2", "band_3")
    assert not whole(source, 0).valid["images"][:5].any()
    assert "t0.tif: band 4 is taken as the mask of the others" in caplog.text


def test_a_mask_that_meta_json_names_is_a_band(tmp_path: Path) -> None:
    image = numbers(dtype="uint8")
    image[3, :5] = 0
    make(tmp_path, image, ())
    (tmp_path / "meta.json").write_text('{"bands": ["red", "green", "blue", "nir"]}')
    sample = whole(RasterSource(config(tmp_path)), 0)
    assert sample.valid["images"].all()
    assert_array_equal(sample.images["images"][..., 0, 3], image[3])


def test_scales_and_offsets_are_applied_and_nodata_is_compared_before(tmp_path: Path) -> None:
    raw = numbers()
    raw[:, 0, 0] = 7
    for date, offset in (("2021-06-01", 0), ("2022-06-01", 1000)):
        image = raw + np.uint16(offset)
        image[:, 0, 0] = 7
        scaled(write(tmp_path / f"s2/{date}.tif", image, BANDS, nodata=7), 1e-4, -offset * 1e-4)
    sample = whole(RasterSource(config(tmp_path)), 0)
    images, valid = sample.images["s2"], sample.valid["s2"]
    assert_allclose(images[:, :, 0], images[:, :, 1], atol=1e-7)
    assert images.max() < 0.51
    assert not valid[0, 0].any()
    assert valid.sum() == valid.size - 2


@pytest.mark.parametrize("nodata", [-3.40282e38, 1.0000001e20, float("nan")])
def test_nodata_has_the_tolerance_that_gdal_gives_it(tmp_path: Path, nodata: float) -> None:
    image = numbers().astype("float32")
    image[:, :8] = {-3.40282e38: np.finfo("float32").min}.get(nodata, nodata)
    source = RasterSource(config(make(tmp_path, image, nodata=nodata), tile=SIDE))
    valid = whole(source, 0).valid["images"]
    assert not valid[:8].any()
    assert valid[8:].all()
    assert_allclose(np.array(source.modalities["images"].mean), image[:, 8:].mean((1, 2)), rtol=1e-4)


def test_masks_beside_the_file_and_of_any_band_count(tmp_path: Path) -> None:
    path = write(tmp_path / "images/2021-06-01.tif", numbers(), BANDS)
    write(tmp_path / "images/2021-07-01.tif", numbers(), BANDS)
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[3] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    assert (path.parent / f"{path.name}.msk").exists()
    valid = whole(RasterSource(config(tmp_path)), 0).valid["images"]
    assert not valid[3, :, 0].any()
    assert valid.sum() == valid.size - 16


# --- what is no image -------------------------------------------------------------------------------------------------
def test_complex_numbers_pages_and_labels_in_colours_are_one_line(tmp_path: Path) -> None:
    expect_line(config(make(tmp_path / "complex", numbers().astype("complex64"))), "holds complex numbers (complex64)")
    make(tmp_path / "pages")
    for path in (tmp_path / "pages/images").iterdir():
        with rasterio.open(path, "r", driver="GTiff") as file:
            pixels = file.read()
        path.unlink()
        for page in range(4):
            options = {"APPEND_SUBDATASET": "YES"} if page else {}
            profile = {"driver": "GTiff", "count": 1, "height": SIDE, "width": SIDE, "dtype": "uint16"}
            with rasterio.open(path, "w", **profile, **options) as file:
                file.write(pixels[page : page + 1])
    expect_line(config(tmp_path / "pages"), "t0.tif: holds 4 images (pages or subdatasets)")
    make(tmp_path / "colours")
    for number in range(6):
        write(tmp_path / f"colours/labels/t{number}.tif", numbers(3, dtype="uint8"), transform=place(number))
    with pytest.raises(InputError, match=r"t\d\.tif: labels of 3 bands; write one band of class numbers"):
        assert RasterSource(config(tmp_path / "colours")).class_names()


def test_labels_are_paired_by_name_whatever_the_suffix_and_those_without_an_image_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, suffix=".tiff")
    for number in range(7):
        write(tmp_path / f"labels/t{number}.tif", numbers(1, dtype="uint8") % 4, transform=place(number))
    source = RasterSource(config(tmp_path))
    assert source.class_names() == ("0", "1", "2", "3")
    labels = whole(source, 5).labels
    assert labels is not None
    assert (labels >= 0).all()
    assert "1 label file matches no image, t6.tif first" in caplog.text


# --- where it is ------------------------------------------------------------------------------------------------------
def test_transforms_are_compared_even_if_one_has_no_reference_system(tmp_path: Path) -> None:
    write(tmp_path / "s2/2021-06-01.tif", numbers(), BANDS)
    moved = {"transform": Affine(10, 0, 664200, 0, -10, 5611920)}
    path = write(tmp_path / "s2/2021-07-01.tif", numbers(), BANDS, crs=None, **moved)
    expect_line(config(tmp_path), f"{path}: 32×32 pixels")
    path.unlink()
    write(path, numbers(), BANDS, crs=None)
    assert RasterSource(config(tmp_path)).shape(0)[2] == 2
    write(tmp_path / "labels.tif", numbers(1, dtype="uint8") % 4, crs=None, **moved)
    expect_line(config(tmp_path), "labels.tif: 32×32 pixels")


LOCAL = 'LOCAL_CS["RGF93 v1 / Lambert-93",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'


def test_latitude_longitude_and_metres_are_not_needed(tmp_path: Path) -> None:
    source = RasterSource(config(make(tmp_path, crs=LOCAL)))
    assert whole(source, 0).latlon is None
    assert source.modalities["images"].gsd == 10.0


def test_a_local_twin_of_a_reference_system_is_accepted_by_its_transform(tmp_path: Path) -> None:
    make(tmp_path, crs="EPSG:2154")
    for number in range(6):
        write(tmp_path / f"labels/t{number}.tif", numbers(1, dtype="uint8") % 4, crs=LOCAL, transform=place(number))
    sample = whole(RasterSource(config(tmp_path)), 2)
    assert sample.labels is not None
    assert (sample.labels >= 0).all()


def test_what_a_header_refuses_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", numbers().astype("complex128"))
    with pytest.raises(BrokenSampleError, match="complex128"):
        RasterFiles().read(path, (1,), Window(0, 0, 4, 4))

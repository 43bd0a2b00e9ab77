"""A small folder in the OlmoEarth layout for the tests, and the configuration of a source of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.olmoearth import OlmoEarth
from hybrid_patch.data.olmoearth.source import WORLDCOVER, OlmoEarthSource
from hybrid_patch.data.source import Sample, Window

Array = np.ndarray

SIDE, LENGTH = 16, 4
S2 = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")


def modality(*bands: str, temporal: bool = True) -> Modality:
    return Modality(bands=bands, band_sets=(bands,), temporal=temporal, gsd=10.0)


MODALITIES = {
    "sentinel2_l2a": modality("B02", "B03"),
    "sentinel1": modality("vv", "vh"),
    "srtm": modality("srtm", temporal=False),
}
MAP = Modality(
    bands=("B1",),
    band_sets=(("B1",),),
    temporal=False,
    gsd=10.0,
    kind="categorical",
    decode_only=True,
    classes=tuple(WORLDCOVER),
)


def config(root: Path, modalities: dict[str, Modality] = MODALITIES, **changes: Any) -> OlmoEarth:
    values: dict[str, Any] = {
        "name": "olmoearth",
        "root": str(root),
        "tile": SIDE,
        "timesteps": LENGTH,
        "modalities": modalities,
        "on_error": "raise",
        "max_skipped": 0.1,
        "statistics": None,
        "val_share": 0.5,
    }
    return OlmoEarth(**values | changes)


def write(root: Path, number: int, masks: dict[str, list[bool]], extra: dict[str, Array] | None = None) -> None:
    """A sample with noise for the given modalities, packed by their masks; `extra` arrays are stored as they are."""
    rng = np.random.default_rng(number)
    compression = hdf5plugin.Zstd(3)
    with h5py.File(root / f"sample_{number}.h5", "w") as file:
        file["latlon"] = np.array([50.5, 5.5], np.float32)
        file["timestamps"] = np.array([[1, month, 2021] for month in range(8, 8 + LENGTH)])
        for name, mask in masks.items():
            image = rng.integers(1, 1000, (SIDE, SIDE, sum(mask), 2)).astype(np.uint16)
            file.create_dataset(name, data=image, chunks=image.shape, **compression)
            file[f"missing_timesteps_masks/{name}"] = np.array(mask)
        for name, array in (extra or {}).items():
            file.create_dataset(name, data=array, chunks=array.shape, **compression)


def index(root: Path, rows: Sequence[str], columns: str = "sentinel2_l2a,sentinel1,srtm,worldcover") -> None:
    (root / "sample_metadata.csv").write_text("\n".join([f"sample_index,{columns}", *rows, ""]))


def make_folder(root: Path) -> Path:
    """Eight samples of three parent tiles; not every one has every modality."""
    rows = []
    heights = np.arange(SIDE * SIDE, dtype=np.int32).reshape(SIDE, SIDE, 1, 1)
    codes = np.resize(np.array([*WORLDCOVER, 0, 255], np.uint8), (SIDE, SIDE, 1, 1))
    for number in (9, 0, 1, 2, 3, 4, 5, 8):
        masks = {"sentinel2_l2a": [True, False, True, True]}
        if number % 2:
            masks["sentinel1"] = [False, True, True, False]
        write(root, number, masks, {"srtm": heights, "worldcover": codes})
        rows.append(f"{number},1,{number % 2},1,1")
    index(root, rows)
    return root


def whole(source: OlmoEarthSource, number: int) -> Sample:
    height, width, length = source.shape(number)
    return source.read(number, Window(0, 0, height, width), np.arange(length))

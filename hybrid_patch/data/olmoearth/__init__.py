import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from hybrid_patch.config.data_options import DataOptions, content, data_root, digest, folder_problems
from hybrid_patch.config.field_types import Aside, FolderPath, Fraction
from hybrid_patch.config.modality import STRICT
from hybrid_patch.errors import InputError

SAMPLE_SIDE = 128
"""Height and width of a sample, pixels."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OlmoEarth(DataOptions):
    """A folder in the OlmoEarth pretraining layout: one HDF5 file per sample."""

    reader: ClassVar[str] = "hybrid_patch.data.olmoearth.source:OlmoEarthSource"
    extra: ClassVar[tuple[str, ...]] = ("olmoearth", "h5py", "hdf5plugin")
    known_modalities: ClassVar[tuple[str, ...]] = (
        "sentinel2_l2a",
        "sentinel1",
        "landsat",
        "srtm",
        "worldcover",
        "cdl",
        "wri_canopy_height_map",
        "worldcereal",
        "openstreetmap_raster",
    )

    name: Literal["olmoearth"]
    root: Aside[FolderPath]
    """The folder that holds `sample_metadata.csv`."""
    statistics: Aside[FolderPath | None]
    """A folder with `computed.json` and `predefined.json`; null: estimated from the training samples."""
    val_share: Fraction
    """Share of the parent tiles that are held out for validation."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.tile > SAMPLE_SIDE:
            yield f"data.tile={self.tile}: larger than an OlmoEarth sample; try {SAMPLE_SIDE} or less"
        yield from folder_problems("data.root", self.root)
        if self.statistics is not None:
            yield from folder_problems("data.statistics", self.statistics)

    def metadata_file(self) -> Path:
        """The table of the samples. Raises InputError if there is none."""
        path = data_root(self.root) / "sample_metadata.csv"
        if not os.path.lexists(path):
            raise InputError(f"data.root={self.root}: has no sample_metadata.csv")
        return path

    def fingerprint(self) -> str:
        """Of `sample_metadata.csv` and the statistics; no sample is opened."""
        names = () if self.statistics is None else ("computed.json", "predefined.json")
        files = [self.metadata_file(), *(Path(str(self.statistics), name) for name in names)]
        return digest(map(content, files))


OPTIONS = OlmoEarth

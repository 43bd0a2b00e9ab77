"""Folders of GeoTIFFs: single-date tiles, or a dated series."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from hybrid_patch.config.data_options import DataOptions, content, data_root, digest, folder_problems
from hybrid_patch.config.field_types import Aside, Code, Count, FolderPath, Fraction, Name
from hybrid_patch.config.modality import STRICT
from hybrid_patch.data.rasters.filenames import labels_location, tifs_below


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rasters(DataOptions):
    """A folder of GeoTIFFs: single-date tiles, or a dated series."""

    reader: ClassVar[str] = "hybrid_patch.data.rasters.source:RasterSource"
    extra: ClassVar[tuple[str, ...]] = ("geo", "rasterio")

    name: Literal["rasters"]
    root: Aside[FolderPath]
    """The folder."""
    labels: FolderPath | None
    """Folder (tiles) or file (series) of the labels, relative to the root; null: none."""
    label_kind: Literal["classes", "numbers"]
    """What the labels are: `classes`, whole numbers from 0 on, or `numbers` of any kind, as of biomass or height."""
    label_classes: tuple[Name, ...] | None
    """Names of the label values 0, 1, ...; null: from meta.json, else counted in the label files."""
    label_nodata: Code | None
    """A label value that means 'no label', in addition to the file's nodata."""
    block: Count
    """A dated series is split into blocks of this many pixels a side; each is a sample."""
    val_share: Fraction
    """Share of the groups that are held out for validation where index.csv has no column split."""

    def problems(self) -> Iterator[str]:
        """A line for each problem."""
        if self.modalities:  # none declared: they are found in the folder
            yield from super().problems()
        if self.label_kind == "numbers" and self.label_classes is not None:
            yield f"data.label_classes={list(self.label_classes)}: data.label_kind=numbers has no classes; try null"
        yield from folder_problems("data.root", self.root)
        if self.labels is not None and Path(self.root).is_dir() and not Path(self.root, self.labels).exists():
            labels = Path(self.root, self.labels)
            yield f"data.labels={self.labels}: there is no {labels}; give a path relative to data.root, or null"

    def fingerprint(self) -> str:
        """Of the relative paths and sizes of the GeoTIFFs that are read, and of the tables and `meta.json`.

        No image is opened, so a change of pixels that leaves every size as it was goes unseen.
        """
        root = data_root(self.root)
        tables = [root / name for name in ("index.csv", "index.parquet", "meta.json")]
        named = ((modality.files, name, f"{name}.tif") for name, modality in self.modalities.items())
        locations = [root / each for names in named for each in names if each is not None]
        if not locations and (root / "images").is_dir():
            locations = [root / "images"]
        locations += [place for place in [labels_location(root, self.labels)] if place is not None and locations]
        listed = (path for path in tifs_below(root) if not locations or any(path.is_relative_to(p) for p in locations))
        sizes = [(path.relative_to(root).as_posix(), _size(path)) for path in listed]
        listing = "\n".join(f"{name}\t{size}" for name, size in sorted(sizes))
        return digest([listing.encode(errors="surrogateescape"), *map(content, tables)])


def _size(path: Path) -> int:
    """Bytes of a file; 0 of a link that leads nowhere, which is reported when it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


OPTIONS = Rasters

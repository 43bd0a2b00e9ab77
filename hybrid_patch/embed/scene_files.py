"""Which files a scene is made of: their modalities, dates and bands, and whether they fit what a run was trained on."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.rasters.discovery import joined
from hybrid_patch.data.rasters.filenames import (
    FilesByTile,
    Series,
    add,
    by_tile,
    find_date,
    labels_location,
    tifs_below,
)
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
from hybrid_patch.data.rasters.scene import MAX_GSD_CHANGE, Layer, check_grid, dates_of, finest, scene_files
from hybrid_patch.data.rasters.tables import read_meta
from hybrid_patch.data.source import BrokenSampleError
from hybrid_patch.embed.options import MapOptions
from hybrid_patch.embed.scene import SceneReader
from hybrid_patch.errors import InputError
from hybrid_patch.runs.records import require_file

TAG = "TIFFTAG_DATETIME"


def find_scene(options: MapOptions, modalities: Mapping[str, Modality], timesteps: int) -> SceneReader:
    """Look at a GeoTIFF, at a folder of dated ones, or at a folder with one of these for each modality of the run.

    Of more dates than the run has `timesteps`, that many are taken, evenly spread.
    Raises InputError, one line, for files that do not fit the run or each other.
    """
    if not options.input.is_dir():
        require_file(options.input)
    if not options.input.exists():
        raise InputError(f"input={options.input}: no such file or folder")
    try:
        return _Finder(options, modalities, RasterFiles(), []).find(timesteps)
    except BrokenSampleError as error:
        raise InputError(str(error)) from error


class _Finder(NamedTuple):
    """What `find_scene` works with; it adds to the notes."""

    options: MapOptions
    modalities: Mapping[str, Modality]
    files: RasterFiles
    notes: list[str]

    def find(self, timesteps: int) -> SceneReader:
        """The scene."""
        tiles = {
            name: joined(by_tile(location, paths), self.files) for name, (location, paths) in self._paths().items()
        }
        tile = self._tile(tiles)
        series = {
            name: self._series(name, files[tile] if tile in files else next(iter(files.values())))
            for name, files in tiles.items()
            if tile in files or len(files) == 1
        }
        dates = self._dates(dates_of(series.values()), timesteps)
        scene = scene_files(self.root.name, series, dates)
        headers = {name: [self.files.header(p) for p in placed.values()] for name, placed in scene.files.items()}
        grid = finest(header for each in headers.values() for header in each)
        layers = {name: self._layer(name, each) for name, each in headers.items()}
        for name, each in headers.items():
            for header in each:
                check_grid(header, grid)
                self._check_resolution(header, name)
        missing = [name for name in self.modalities if name not in layers]
        if missing:
            self.notes.append(f"not in the input, so missing: {', '.join(missing)}")
        return SceneReader(self.files, scene, layers, tuple(dates), grid, tuple(self.notes))

    def _tile(self, tiles: Mapping[str, FilesByTile]) -> str | None:
        """The tile that is asked for, or the only one. Raises InputError if there are several."""
        names = sorted({name for files in tiles.values() if len(files) > 1 for name in files})
        if self.options.tile is not None and self.options.tile not in names:
            raise InputError(f"tile={self.options.tile}: not in {self.root}; it has {', '.join(names) or 'one alone'}")
        if names and self.options.tile is None:
            raise InputError(f"input={self.root}: holds {len(names)} tiles; name one: tile={names[0]}")
        return self.options.tile

    def _series(self, name: str, files: Series) -> Series:
        """The files of a modality, with dates if it has timesteps, else one file."""
        if self.modalities[name].temporal:
            series: Series = {}
            for date, path in files.items():
                only = self.options.date if len(files) == 1 else None
                add(series, only or date or self._date(path), path)
            return series
        if len(files) > 1 and self.options.date not in files:
            raise InputError(
                f"input={self.root}: {len(files)} dates of {name}, and the run takes one; choose it with "
                f"date={next(iter(files))}"
            )
        return {None: files[self.options.date] if len(files) > 1 else next(iter(files.values()))}

    @property
    def root(self) -> Path:
        """The input."""
        return self.options.input

    def _paths(self) -> dict[str, tuple[Path, list[Path]]]:
        """The folder and the files of each modality, in order."""
        if self.root.is_file():
            return {self._modality_of(self.root): (self.root, [self.root])}
        by_name = {}
        for name, modality in self.modalities.items():
            wanted = [self.root / each for each in (name, f"{name}.tif", modality.files) if each not in (None, ".")]
            place = next((place for place in wanted if place.exists()), None)
            if place is not None:
                by_name[name] = place, tifs_below(place) if place.is_dir() else [place]
                if not by_name[name][1]:
                    raise InputError(f"{place}: no .tif files in this folder")
        if by_name:
            return by_name
        labels = labels_location(self.root, None)
        paths = [path for path in tifs_below(self.root) if labels is None or not path.is_relative_to(labels)]
        if not paths:
            raise InputError(
                f"input={self.root}: holds no .tif file, and nothing called {' or '.join(self.modalities)} as the "
                "run's inputs are"
            )
        return {self._modality_of(paths[0]): (self.root, paths)}

    def _modality_of(self, path: Path) -> str:
        """The input modality of a file: the one with the largest share of its bands in the file."""
        header = self.files.header(path)
        shares = {
            name: np.mean([position is not None for position in self._bare_layer(name, path).positions(header)])
            for name in self.modalities
        }
        best = max(shares, key=lambda name: shares[name])
        others = [name for name in shares if name != best and shares[name] == shares[best]]
        if others and shares[best]:
            self.notes.append(
                f"{path.name}: taken as {best}; {', '.join(others)} would fit as well (name a folder by modality)"
            )
        return best

    def _bare_layer(self, name: str, path: Path) -> Layer:
        """A modality in a file, described by the meta.json of the input's folder, or of the folders above the file."""
        root = path.parent if self.root.is_file() else self.root
        folders = [root, path.parent, path.parent.parent]
        folder = next((folder for folder in folders if (folder / "meta.json").is_file()), root)
        return Layer(name, self.modalities[name], read_meta(folder / "meta.json"), self.options.nodata)

    def _date(self, path: Path) -> datetime.date:
        dated = find_date(self.files.tags(path).get(TAG, "").replace(":", "-"))
        if dated is None:
            raise InputError(
                f"{path}: no date in its name (2024-05-31) nor in its tag {TAG}; give it with date=2024-05-31"
            )
        return dated.date

    def _dates(self, dates: Sequence[datetime.date], max_dates: int) -> Sequence[datetime.date]:
        """As many of the dates as the run takes, evenly spread."""
        if len(dates) <= max_dates:
            return dates
        steps = np.unique(np.linspace(0, len(dates) - 1, max_dates).round().astype(int))
        chosen = [dates[step] for step in steps]
        self.notes.append(f"{len(dates)} dates, and the run takes {max_dates}: {', '.join(map(str, chosen))}")
        return chosen

    def _layer(self, name: str, headers: Sequence[Header]) -> Layer:
        """How the files of a modality are read, without the band sets that one of the files lacks a band of."""
        first = headers[0]
        layer = self._bare_layer(name, first.path)
        bands, band_sets, names = layer.modality.bands, layer.modality.band_sets, tuple(layer.bands(first))
        unused = [band for band in names if band.casefold() not in {b.casefold() for b in bands}]
        if unused:
            self.notes.append(f"{first.path.name}: bands not used: {', '.join(unused)}")
        if names == tuple(bands) and not first.names:
            self.notes.append(f"{first.path.name}: its bands have no names; taken in order: {', '.join(names)}")
        if first.mask_band is not None and first.mask_band not in layer.positions(first):
            self.notes.append(f"{first.path.name}: band {first.mask_band} is taken as the mask of the others")
        missing: dict[str, Header] = {}
        for header in headers:
            positions = zip(bands, layer.positions(header), strict=True)
            missing |= {band: header for band, position in positions if position is None}
        if not missing:
            return layer
        absent = tuple(number for number, band_set in enumerate(band_sets) if missing.keys() & set(band_set))
        header = next(iter(missing.values()))
        problem = (
            f"{header.path}: has no band {', '.join(map(repr, missing))} of modality {name!r}; "
            f"it has {', '.join(layer.bands(header))}"
        )
        nothing_left = len(absent) == len(band_sets)
        if self.options.missing_bands == "error":
            hint = "" if nothing_left else "; missing_bands=drop leaves out the band sets that it is in"
            raise InputError(problem + hint)
        if nothing_left:
            raise InputError(f"{problem}; every band set lacks a band, so that nothing is left")
        sets = "; ".join(", ".join(band_sets[number]) for number in absent)
        self.notes.append(f"{header.path.name}: has no {', '.join(missing)}; left out band sets: {sets}")
        return replace(layer, absent=absent)

    def _check_resolution(self, header: Header, name: str) -> None:
        gsd, trained = header.gsd(), self.modalities[name].gsd
        if gsd is not None and abs(gsd / trained - 1) > MAX_GSD_CHANGE and self.options.resolution == "same":
            raise InputError(
                f"{header.path}: has pixels of {gsd:.4g} m, but the run was trained on {name} of {trained:.4g} m; "
                "resample it (gdalwarp -tr), or take it as it is with resolution=any"
            )

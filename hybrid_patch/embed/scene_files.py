"""Which files a scene is made of: their modalities, dates and bands, and whether they fit what a run was trained on."""

import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles, band_names, places_of
from hybrid_patch.data.rasters.layout import tifs
from hybrid_patch.data.rasters.meta import Meta, read_meta
from hybrid_patch.data.source import BrokenSampleError
from hybrid_patch.errors import InputError

SAME_GSD = 0.1
"""By which share the pixel size may differ from the training's."""
DATE = re.compile(r"(?<!\d)(\d{4})(-?)(\d{2})\2(\d{2})(?!\d)")
"""2024-05-31 or 20240531."""
TAG = "TIFFTAG_DATETIME"


class ReadOptions(NamedTuple):
    """How an input is read.

    Attributes:
        date: of the only date of the input.
        drop_bands: band sets of which a band is missing are left out, instead of an error.
        any_resolution: whatever the pixel size.
        nodata: the value that means 'no data' in files that declare none.
    """

    date: datetime.date | None = None
    drop_bands: bool = False
    any_resolution: bool = False
    nodata: float | None = None


class Layer(NamedTuple):
    """The files of one modality.

    Attributes:
        files: by timestep.
        bands: where in each file, counted from 1, the bands are that are read.
        channels: which of the modality's bands those are.
        absent: numbers of the band sets that are left out.
        nodata: what means 'no data' where a file declares nothing.
    """

    files: Mapping[int, Path]
    bands: Mapping[Path, tuple[int, ...]]
    channels: tuple[int, ...]
    absent: tuple[int, ...]
    nodata: float | None


class SceneInputs(NamedTuple):
    """The files of a scene, all on one grid.

    Attributes:
        layers: by modality.
        dates: of the timesteps; empty if all is static.
        grid: the header of one of the files.
        notes: what a person should know of how they were taken, a line each.
    """

    layers: Mapping[str, Layer]
    dates: tuple[datetime.date, ...]
    grid: Header
    notes: tuple[str, ...]


def find_inputs(
    path: Path, modalities: Mapping[str, Modality], timesteps: int, options: ReadOptions, files: RasterFiles
) -> SceneInputs:
    """Look at a GeoTIFF, at a folder of dated ones, or at a folder with one of these for each modality.

    Args:
        modalities: the inputs of the run.
        timesteps: the most that it was trained with; of more dates as many are taken, evenly spread.

    Raises InputError, one line, for whatever does not fit.
    """
    if not path.exists():
        raise InputError(f"input={path}: no such file or folder")
    notes: list[str] = []
    try:
        found = _by_modality(path, modalities, options, files, notes)
        metas = {name: _meta(path, paths[0]) for name, paths in found.items()}
        dated = {
            name: {_date(place, options, files): place for place in paths}
            for name, paths in found.items()
            if modalities[name].temporal
        }
        for name, series in dated.items():
            if len(series) < len(found[name]):
                twice = next(place for place in found[name] if place not in series.values())
                raise InputError(f"{twice}: another file has the same date; a series has one file a day")
        dates = _chosen(sorted({date for series in dated.values() for date in series}), timesteps, notes)
        layers: dict[str, Layer] = {}
        for name, paths in found.items():
            of_time = {i: dated[name][d] for i, d in enumerate(dates) if d in dated[name]} if name in dated else None
            if of_time is None and len(paths) > 1:
                raise InputError(f"input={path}: {len(paths)} files of the static modality {name}; takes one")
            if of_time != {}:
                placed = {0: paths[0]} if of_time is None else of_time
                layers[name] = _layer(name, modalities[name], placed, metas[name], options, files, notes)
        grid = files.header(next(place for layer in layers.values() for place in layer.files.values()))
        for name, layer in layers.items():
            for place in layer.files.values():
                _check_grid(files.header(place), grid, name, modalities[name], options)
    except BrokenSampleError as error:
        raise InputError(str(error)) from error
    absent = [name for name in modalities if name not in layers]
    if absent:
        notes.append(f"not in the input, so missing: {', '.join(absent)}")
    return SceneInputs(layers, tuple(dates), grid, tuple(notes))


def date_in(text: str) -> datetime.date | None:
    """The first date in a text, as 2024-05-31 or 20240531."""
    for year, _, month, day in DATE.findall(text):
        try:
            return datetime.date(int(year), int(month), int(day))
        except ValueError:
            continue
    return None


# --- which files ------------------------------------------------------------------------------------------------------
def _by_modality(
    path: Path, modalities: Mapping[str, Modality], options: ReadOptions, files: RasterFiles, notes: list[str]
) -> dict[str, list[Path]]:
    """The files of each modality, in order."""
    if path.is_file():
        return {_modality_of(path, modalities, options, files, notes): [path]}
    named = {}
    for name in modalities:
        place = next((place for place in (path / name, path / f"{name}.tif") if place.exists()), None)
        if place is not None:
            inside = tifs(place) if place.is_dir() else [place]
            if not inside:
                raise InputError(f"{place}: no .tif files in this folder")
            named[name] = inside
    if named:
        return named
    series = tifs(path)
    if not series:
        raise InputError(
            f"input={path}: holds no .tif file, and nothing called {' or '.join(modalities)} as the run's inputs are"
        )
    return {_modality_of(series[0], modalities, options, files, notes): series}


def _modality_of(
    path: Path, modalities: Mapping[str, Modality], options: ReadOptions, files: RasterFiles, notes: list[str]
) -> str:
    """The input modality whose bands a file has; if none has all, the one of which it has the largest share."""
    header, meta = files.header(path), _meta(path.parent, path)
    shares = {}
    for name, modality in modalities.items():
        names = band_names(header, meta.names("bands", name), modality.bands)
        shares[name] = np.mean([place is not None for place in places_of(names, modality.bands)])
    best = max(shares, key=lambda name: shares[name])
    others = [name for name in shares if name != best and shares[name] == shares[best]]
    if others and shares[best]:
        notes.append(f"{path.name}: taken as {best}; {', '.join(others)} would fit as well (name a folder by modality)")
    return best


def _meta(root: Path, path: Path) -> Meta:
    """The meta.json that describes a file: of the input's folder, or of the folders above the file."""
    places = [root, path.parent, path.parent.parent]
    return read_meta(next((place for place in places if (place / "meta.json").is_file()), root) / "meta.json")


def _date(path: Path, options: ReadOptions, files: RasterFiles) -> datetime.date:
    if options.date is not None:
        return options.date
    found = date_in(path.name) or date_in(files.tags(path).get(TAG, "").replace(":", "-"))
    if found is None:
        raise InputError(f"{path}: no date in its name (2024-05-31) nor in its tag {TAG}; give it with date=2024-05-31")
    return found


def _chosen(dates: Sequence[datetime.date], most: int, notes: list[str]) -> list[datetime.date]:
    if len(dates) <= most:
        return list(dates)
    places = np.unique(np.linspace(0, len(dates) - 1, most).round().astype(int))
    kept = [dates[place] for place in places]
    notes.append(f"{len(dates)} dates, and the run takes {most}: {', '.join(map(str, kept))}")
    return kept


# --- whether they fit -------------------------------------------------------------------------------------------------
def _layer(
    name: str,
    modality: Modality,
    placed: Mapping[int, Path],
    meta: Meta,
    options: ReadOptions,
    files: RasterFiles,
    notes: list[str],
) -> Layer:
    missing: dict[str, Path] = {}
    places = {}
    for path in placed.values():
        header = files.header(path)
        names = band_names(header, meta.names("bands", name), modality.bands)
        places[path] = places_of(names, modality.bands)
        missing |= {band: path for band, place in zip(modality.bands, places[path], strict=True) if place is None}
        if path == next(iter(placed.values())):
            unused = [found for found in names if found.casefold() not in {b.casefold() for b in modality.bands}]
            if unused:
                notes.append(f"{path.name}: bands not used: {', '.join(unused)}")
            if names == tuple(modality.bands) and not header.names:
                notes.append(f"{path.name}: its bands have no names; taken in order: {', '.join(names)}")
    absent = tuple(s for s, band_set in enumerate(modality.band_sets) if missing.keys() & set(band_set))
    kept = tuple(
        modality.bands.index(band) for s, bands in enumerate(modality.band_sets) if s not in absent for band in bands
    )
    if missing:
        path = next(iter(missing.values()))
        names = band_names(files.header(path), meta.names("bands", name), modality.bands)
        problem = f"{path}: has no band {', '.join(map(repr, missing))} of modality {name!r}; it has {', '.join(names)}"
        if not options.drop_bands:
            would = "; missing_bands=drop leaves out the band sets that it is in" if kept else ""
            raise InputError(problem + would)
        if not kept:
            raise InputError(f"{problem}; every band set lacks a band, so that nothing is left")
        sets = "; ".join(", ".join(modality.band_sets[s]) for s in absent)
        notes.append(f"{path.name}: has no {', '.join(missing)}; left out band sets: {sets}")
    bands = {path: tuple(place for c in kept if (place := found[c]) is not None) for path, found in places.items()}
    nodata = options.nodata if options.nodata is not None else meta.number("nodata", name)
    return Layer(placed, bands, kept, absent, nodata)


def _check_grid(header: Header, grid: Header, name: str, modality: Modality, options: ReadOptions) -> None:
    if not header.same_grid(grid):
        raise InputError(
            f"{header.path}: {header.height}×{header.width} pixels at {tuple(header.transform)[:6]}, but {grid.path} "
            f"has {grid.height}×{grid.width} at {tuple(grid.transform)[:6]}; warp them to one grid"
        )
    gsd = header.gsd()
    if gsd is not None and abs(gsd / modality.gsd - 1) > SAME_GSD and not options.any_resolution:
        raise InputError(
            f"{header.path}: has pixels of {gsd:.4g} m, but the run was trained on {name} of {modality.gsd:.4g} m; "
            "resample it (gdalwarp -tr), or take it as it is with resolution=any"
        )

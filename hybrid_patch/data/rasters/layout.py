"""Find out what a folder of GeoTIFFs is: tiles or a dated series, which modalities, and where their files are."""

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hybrid_patch.config.data_options import data_root
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.rasters import Rasters, scene
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
from hybrid_patch.data.rasters.tables import Meta, TileIndex, read_index, read_meta
from hybrid_patch.data.source import BrokenSampleError
from hybrid_patch.errors import InputError

DEFAULT_GSD = 10.0
"""Metres per pixel where neither meta.json nor the files have it."""
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?!\d)")

FilesByTile = dict[str, scene.Series]
"""The files of a modality: by tile, then by date."""


@dataclass(frozen=True)
class Layout:
    """The files of a folder by modality, tile and date, and how they are read. A dated series is the only tile.

    Attributes:
        index: the tiles.
        files: by modality; no tile lacks all of them.
        labels: the file of each labelled tile.
        layers: by modality, without statistics yet.
        grid: the header of one of a series' files; None for tiles, each of which has its own.
    """

    index: TileIndex
    files: Mapping[str, FilesByTile]
    labels: Mapping[str, Path]
    layers: Mapping[str, scene.Layer]
    meta: Meta
    grid: Header | None

    def tile(self, number: int) -> scene.SceneFiles:
        """The files of a tile."""
        tile = self.index.names[number]
        series = {modality: tiles[tile] for modality, tiles in self.files.items() if tile in tiles}
        return scene.scene_files(tile, series, scene.dates_of(series.values()), self.labels.get(tile))


def find_layout(config: Rasters, files: RasterFiles) -> Layout:
    """Look at the folder. The headers of a series' files are read, of tiles only the first.

    Raises InputError: no such folder, nothing to read in it, a declared modality or band that is not there, files of
    one scene on different grids.
    """
    root = data_root(config.root)
    meta = read_meta(root / "meta.json")
    labels = _find_labels(root, config.labels)
    locations = {name: _location(root, name, modality) for name, modality in config.modalities.items()}
    locations = locations or _look_around(root, labels, files)
    kinds = {name: _kind(location) for name, location in locations.items()}
    tiled = [name for name, kind in kinds.items() if kind == "tiles"]
    if tiled and len(tiled) < len(kinds):
        other = next(name for name in kinds if name not in tiled)
        raise InputError(
            f"data.modalities: {locations[tiled[0]]} holds tiles and {locations[other]} a {kinds[other]} image; "
            "the files of a folder are either all tiles or all of one scene"
        )
    if labels and labels.is_dir() != bool(tiled):
        needed = "a folder, one file per tile" if tiled else "one file, as the images are of one scene"
        raise InputError(f"data.labels={labels.relative_to(root)}: must be {needed}")
    by_tile = {name: _by_tile(location, kinds[name], root.name) for name, location in locations.items()}
    headers = {name: _first_header(_paths(tiles), files, root) for name, tiles in by_tile.items()}
    layers = {
        name: _layer(name, config.modalities.get(name), kinds[name], header, meta) for name, header in headers.items()
    }
    if not tiled:
        grid = next(iter(headers.values()))
        label_files = {root.name: labels} if labels else {}
        layout = Layout(TileIndex((root.name,)), by_tile, label_files, layers, meta, grid)
        _check_files(layout, grid, files)
        return layout
    index = read_index(root, frozenset[str]().union(*by_tile.values()))
    for tile in index.names:
        if not any(tile in tiles for tiles in by_tile.values()):
            for name, tiles in by_tile.items():
                tiles[tile] = {None: locations[name] / tile}  # Reported when it is read.
    label_files = {path.name: path for path in scene.tifs(labels)} if labels else {}
    return Layout(index, by_tile, label_files, layers, meta, None)


# --- where things are -------------------------------------------------------------------------------------------------
def _find_labels(root: Path, given: str | None) -> Path | None:
    if given is not None:
        if not (root / given).exists():
            raise InputError(f"data.labels={given}: no such file or folder under {root}")
        return root / given
    return next((root / name for name in ("labels", "labels.tif") if (root / name).exists()), None)


def _location(root: Path, name: str, modality: Modality) -> Path:
    """The folder or file of a declared modality."""
    wanted = [modality.files] if modality.files is not None else [name, f"{name}.tif"]
    for location in wanted:
        if (root / location).exists():
            return root / location
    raise InputError(f"data.modalities.{name}.files: neither folder nor file {' or '.join(wanted)} under {root}")


def _look_around(root: Path, labels: Path | None, files: RasterFiles) -> dict[str, Path]:
    """The modalities of a folder that nobody has described: `images/` with tiles, else dated and static images."""
    images = root / "images"
    if images.is_dir() and scene.tifs(images) and _kind(images) == "tiles":
        return {"images": images}
    no_images = (labels, root / "labels", root / "labels.tif")
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path not in no_images and scene.tifs(path)]
    locations = {path.name: path for path in folders if _kind(path) == "dated"}
    singles = (path for path in scene.tifs(root) if path not in no_images)
    try:
        locations |= {path.stem: path for path in singles if files.header(path).count == 1}
    except BrokenSampleError as error:
        raise InputError(str(error)) from error
    if not locations:
        raise InputError(
            f"data.root={root}: found neither images/*.tif, nor a folder of .tif files whose names start with a date "
            "(2024-05-31), nor single-band .tif files; say where the images are with data.modalities.<name>.files"
        )
    return locations


def _kind(location: Path) -> str:
    """`static` (one file), `dated` or `tiles` (a folder)."""
    if location.is_file():
        return "static"
    paths = scene.tifs(location)
    if not paths:
        raise InputError(f"{location}: no .tif files in this folder")
    undated = [path for path in paths if not ISO_DATE.match(path.name)]
    if undated and len(undated) < len(paths):
        dated = next(path for path in paths if path not in undated)
        raise InputError(
            f"{location}: {dated.name} has a date and {undated[0].name} has none; a series has dates in all"
        )
    return "tiles" if undated else "dated"


def _by_tile(location: Path, kind: str, name: str) -> FilesByTile:
    """The files at a location; `name` is what a tile without a name of its own is called."""
    match kind:
        case "tiles":
            return {path.name: {None: path} for path in scene.tifs(location)}
        case "dated":
            return {name: scene.by_date(scene.tifs(location), _date)}
        case _:
            return {name: {None: location}}


def _date(path: Path) -> datetime.date:
    try:
        return datetime.date.fromisoformat(path.name[:10])
    except ValueError as error:
        raise InputError(f"{path}: its name starts with {path.name[:10]}, which is no date") from error


def _paths(tiles: FilesByTile) -> Iterator[Path]:
    return (path for series in tiles.values() for path in series.values())


# --- what the modalities are ------------------------------------------------------------------------------------------
def _first_header(paths: Iterator[Path], files: RasterFiles, root: Path) -> Header:
    """The header of the first file that can be opened: one broken file must not keep the others from being used."""
    problem = ""
    for path in paths:
        try:
            return files.header(path)
        except BrokenSampleError as error:
            problem = problem or str(error)
    raise InputError(f"data.root={root}: no file can be opened; the first: {problem}")


def _layer(name: str, declared: Modality | None, kind: str, header: Header, meta: Meta) -> scene.Layer:
    """How a modality is read: as it is declared, else as its first file and meta.json describe it."""
    dated = kind == "dated"
    if declared is None:
        bands = header.names or meta.names("bands", name)
        bands = bands if len(bands) == header.count else scene.numbered_bands(header)
        gsd = meta.number("resolution_m", name) or header.gsd() or DEFAULT_GSD
        return scene.Layer(name, Modality(bands=bands, band_sets=(bands,), temporal=dated, gsd=gsd), meta)
    if declared.temporal != dated:
        why = "its files have dates" if dated else "its files have no dates"
        raise InputError(f"data.modalities.{name}.temporal: must be {str(dated).lower()}, as {why}")
    layer = scene.Layer(name, declared, meta)
    layer.match(header)
    return layer


def _check_files(layout: Layout, grid: Header, files: RasterFiles) -> None:
    """All files of a scene are on one grid and have the bands; one that cannot be opened is reported when read."""
    checks = [(path, layer) for name, layer in layout.layers.items() for path in _paths(layout.files[name])]
    for path, layer in [*checks, *((path, None) for path in layout.labels.values())]:
        try:
            header = files.header(path)
        except BrokenSampleError:
            continue
        scene.check_grid(header, grid)
        if layer is not None:
            layer.match(header)

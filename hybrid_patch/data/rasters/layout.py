"""Find out what a folder of GeoTIFFs is: tiles or a dated series, which modalities, and where their files are."""

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hybrid_patch.config.data_options import data_root
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.rasters import Rasters
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
from hybrid_patch.data.rasters.index import TileIndex, read_index
from hybrid_patch.data.rasters.meta import Meta, read_meta
from hybrid_patch.data.rasters.scene import (
    UNDATED,
    Layer,
    SceneFiles,
    Series,
    by_date,
    check_grid,
    dates_of,
    numbered_bands,
    scene_files,
    tifs,
)
from hybrid_patch.data.source import BrokenSampleError
from hybrid_patch.errors import InputError

DEFAULT_GSD = 10.0
"""Metres per pixel where neither meta.json nor the files have it."""
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?!\d)")


@dataclass(frozen=True)
class Tiles:
    """Single-date tiles: one folder per modality, the same file names in each.

    Attributes:
        folders: per modality, its folder and the names of the files that it has.
        labels: the folder of the labels and the names of its files.
    """

    index: TileIndex
    folders: Mapping[str, tuple[Path, frozenset[str]]]
    labels: tuple[Path, frozenset[str]] | None

    def scene(self, number: int) -> SceneFiles:
        """A tile. One that no folder has is looked for in all of them, and so found missing when it is read."""
        name = self.index.files[number]
        having = {modality: folder for modality, (folder, names) in self.folders.items() if name in names}
        folders = having or {modality: folder for modality, (folder, _) in self.folders.items()}
        labels = self.labels[0] / name if self.labels and name in self.labels[1] else None
        return SceneFiles(name, {modality: {0: folder / name} for modality, folder in folders.items()}, UNDATED, labels)


@dataclass(frozen=True)
class Layout:
    """What a folder is.

    Attributes:
        content: tiles, or one scene.
        layers: what is in it, by modality (without statistics yet).
        grid: the header of one of the scene's files; None for tiles.
    """

    content: Tiles | SceneFiles
    layers: Mapping[str, Layer]
    meta: Meta
    grid: Header | None

    @property
    def label_files(self) -> list[Path]:
        """All files of labels, in order."""
        if isinstance(self.content, SceneFiles):
            return [self.content.labels] if self.content.labels else []
        if self.content.labels is None:
            return []
        folder, names = self.content.labels
        return [folder / name for name in self.content.index.files if name in names]


def find_layout(config: Rasters, files: RasterFiles) -> Layout:
    """Look at the folder. The headers of a scene's files are read, of tiles only the first.

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
    content = _tiles(root, locations, labels) if tiled else _series(root, locations, labels)
    headers = {name: _first_header(_files_of(name, content), files, root) for name in locations}
    layers = {
        name: _declared(config.modalities[name], name, kinds[name], header, meta)
        if config.modalities
        else _discovered_layer(name, kinds[name], header, meta)
        for name, header in headers.items()
    }
    if isinstance(content, Tiles):
        return Layout(content, layers, meta, None)
    grid = next(iter(headers.values()))
    _check_files(content, layers, grid, files)
    return Layout(content, layers, meta, grid)


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
    if images.is_dir() and tifs(images) and _kind(images) == "tiles":
        return {"images": images}
    no_images = (labels, root / "labels", root / "labels.tif")
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and path not in no_images and tifs(path)]
    locations = {path.name: path for path in folders if _kind(path) == "dated"}
    try:
        locations |= {path.stem: path for path in tifs(root) if path not in no_images and files.header(path).count == 1}
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
    paths = tifs(location)
    if not paths:
        raise InputError(f"{location}: no .tif files in this folder")
    undated = [path for path in paths if not ISO_DATE.match(path.name)]
    if undated and len(undated) < len(paths):
        dated = next(path for path in paths if path not in undated)
        raise InputError(
            f"{location}: {dated.name} has a date and {undated[0].name} has none; a series has dates in all"
        )
    return "tiles" if undated else "dated"


def _tiles(root: Path, locations: Mapping[str, Path], labels: Path | None) -> Tiles:
    def with_names(folder: Path) -> tuple[Path, frozenset[str]]:
        return folder, frozenset(path.name for path in tifs(folder))

    folders = {name: with_names(location) for name, location in locations.items()}
    tile_names = frozenset[str]().union(*(names for _, names in folders.values()))
    return Tiles(read_index(root, tile_names), folders, with_names(labels) if labels else None)


def _series(root: Path, locations: Mapping[str, Path], labels: Path | None) -> SceneFiles:
    series: dict[str, Series] = {
        name: by_date(tifs(location), _date) if location.is_dir() else {None: location}
        for name, location in locations.items()
    }
    return scene_files(root.name, series, dates_of(series.values()), labels)


def _date(path: Path) -> datetime.date:
    try:
        return datetime.date.fromisoformat(path.name[:10])
    except ValueError as error:
        raise InputError(f"{path}: its name starts with {path.name[:10]}, which is no date") from error


# --- what the modalities are ------------------------------------------------------------------------------------------
def _files_of(modality: str, content: Tiles | SceneFiles) -> Iterable[Path]:
    if isinstance(content, SceneFiles):
        return content.files[modality].values()
    folder, names = content.folders[modality]
    return (folder / name for name in sorted(names))


def _first_header(paths: Iterable[Path], files: RasterFiles, root: Path) -> Header:
    """The header of the first file that can be opened: one broken file must not keep the others from being used."""
    problem = ""
    for path in paths:
        try:
            return files.header(path)
        except BrokenSampleError as error:
            problem = problem or str(error)
    raise InputError(f"data.root={root}: no file can be opened; the first: {problem}")


def _discovered_layer(name: str, kind: str, header: Header, meta: Meta) -> Layer:
    named = header.names or meta.names("bands", name)
    bands = named if len(named) == header.count else numbered_bands(header)
    gsd = meta.number("resolution_m", name) or header.gsd() or DEFAULT_GSD
    return Layer(name, Modality(bands=bands, band_sets=(bands,), temporal=kind == "dated", gsd=gsd), meta)


def _declared(modality: Modality, name: str, kind: str, header: Header, meta: Meta) -> Layer:
    if modality.temporal != (kind == "dated"):
        why = "its files have dates" if kind == "dated" else "its files have no dates"
        raise InputError(f"data.modalities.{name}.temporal: must be {str(kind == 'dated').lower()}, as {why}")
    layer = Layer(name, modality, meta)
    layer.match(header)
    return layer


def _check_files(scene: SceneFiles, layers: Mapping[str, Layer], grid: Header, files: RasterFiles) -> None:
    """All files of a scene are on one grid and have the bands; one that cannot be opened is reported when read."""
    checks: list[tuple[Path, Layer | None]] = [
        (path, layer) for name, layer in layers.items() for path in scene.files[name].values()
    ]
    for path, layer in [*checks, *([(scene.labels, None)] if scene.labels else [])]:
        try:
            header = files.header(path)
        except BrokenSampleError:
            continue
        check_grid(header, grid)
        if layer is not None:
            layer.match(header)

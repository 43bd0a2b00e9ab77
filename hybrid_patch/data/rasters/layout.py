"""Find out what a folder of GeoTIFFs is: its tiles or its one scene, the modalities, and how they are read."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hybrid_patch.config.data_options import data_root
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.rasters import Rasters, discovery, scene
from hybrid_patch.data.rasters.discovery import Sensor
from hybrid_patch.data.rasters.filenames import FilesByTile, is_tif, labels_location, plain, tifs_below, tile_name
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
from hybrid_patch.data.rasters.ground import ground_groups
from hybrid_patch.data.rasters.tables import Meta, Row, TileIndex, read_meta, read_table, tile_index
from hybrid_patch.data.source import BrokenSampleError
from hybrid_patch.errors import InputError

DEFAULT_GSD = 10.0
"""Metres per pixel where neither meta.json nor the files have it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """The files of a folder by modality, tile and date, and how they are read. A scene is the only tile.

    Attributes:
        index: the tiles.
        files: by modality; no tile lacks all of them.
        labels: the file of each labelled tile.
        layers: by modality, without statistics yet.
        grid: of the scene; None for tiles, each of which has its own.
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
    """Look at the folder; one header is read of each tile and modality, and all headers of a scene.

    Raises InputError: no such folder, nothing to read in it, a declared modality or band that is not there, files of
    one place on different grids, tiles of different pixel sizes.
    """
    root = data_root(config.root)
    meta = read_meta(root / "meta.json")
    table = read_table(root)
    if table is not None and "path" in table[1][0]:
        sensors = discovery.sensors_of_table(root, table[1], config.modalities)
        label_files = {tile: series[None] for tile, series in sensors.pop("labels", Sensor(root, {})).tiles.items()}
        index = tile_index(*table, discovery.tile_of, ())
    else:
        labels = labels_location(root, config.labels)
        sensors = discovery.find_sensors(root, config.modalities, labels, files)
        sensors = _one_scene(root, sensors) if table is None else sensors
        all_tiles = dict.fromkeys(tile for sensor in sensors.values() for tile in sensor.tiles)
        index, label_files = TileIndex(tuple(sorted(all_tiles))), _label_files(labels, all_tiles)
        if table is not None:
            index = tile_index(*table, lambda row: _listed_tile(row, sensors, root), all_tiles)
    sensors = {name: _of_one_date(name, sensor, config.modalities.get(name)) for name, sensor in sensors.items()}
    _check_names(sensors)
    for tile in index.names:
        if not any(tile in sensor.tiles for sensor in sensors.values()):
            for sensor in sensors.values():
                sensor.tiles[tile] = {None: sensor.location / f"{tile}.tif"}  # Reported when it is read.
    headers = {name: _first_header(sensor.paths(), files, root) for name, sensor in sensors.items()}
    layers = {
        name: _layer(name, config.modalities.get(name), sensors[name], headers[name], meta, root) for name in sensors
    }
    by_tile = {name: sensor.tiles for name, sensor in sensors.items()}
    is_scene = table is None and len(index.names) == 1
    layout = Layout(index, by_tile, label_files, layers, meta, scene.finest(headers.values()) if is_scene else None)
    if is_scene:
        _check_scene(layout, files)
        return layout
    return replace(layout, index=_with_ground(index, _check_tiles(layout, files), root))


def _one_scene(root: Path, sensors: dict[str, Sensor]) -> dict[str, Sensor]:
    """Files of a single place in every modality are of one scene, however they are called."""
    if any(len(sensor.tiles) > 1 for sensor in sensors.values()):
        return sensors
    return {name: Sensor(at, {root.name: next(iter(tiles.values()))}) for name, (at, tiles) in sensors.items()}


def _of_one_date(name: str, sensor: Sensor, declared: Modality | None) -> Sensor:
    """The same files, without their dates where a modality is declared to be static and each place has one.

    Raises InputError if a place has several, or if the modality is declared to have dates and the files have none.
    """
    if declared is None or declared.temporal == sensor.dated:
        return sensor
    if declared.temporal:
        raise InputError(
            f"data.modalities.{name}.temporal=true: the files in {sensor.location} have no dates in their names; "
            "give them dates (2024-05-31), or train with temporal=false"
        )
    series = next((series for series in sensor.tiles.values() if len(series) > 1), None)
    if series is not None:
        raise InputError(
            f"data.modalities.{name}.temporal=false: {sensor.location} holds {len(series)} dates of one place, and a "
            "static modality takes one; list one for each in index.csv (path, tile), or train with temporal=true"
        )
    return Sensor(sensor.location, {place: {None: next(iter(s.values()))} for place, s in sensor.tiles.items()})


def _check_names(sensors: Mapping[str, Sensor]) -> None:
    """Raises InputError if the files of a modality have no name in common with those of another."""
    for name, sensor in sensors.items():
        others = {tile: other.location for key, other in sensors.items() if key != name for tile in other.tiles}
        if others and not sensor.tiles.keys() & others.keys():
            tile, other = min(sensor.tiles) or "none but a date", min(others)
            raise InputError(
                f"data.modalities: {sensor.location} has no tile that {others[other]} has; its first name is {tile}, "
                f"there it is {other or 'none but a date'}; the files of a tile are told by their names"
            )


def _listed_tile(row: Row, sensors: Mapping[str, Sensor], root: Path) -> str:
    """The tile of a row that lists a file: by its name, or its path below the folder or that of a modality."""
    path = Path(row["file"])
    path = path.with_suffix("") if is_tif(path.name) else path  # other dots are of the name
    for sensor in sensors.values():
        if path.as_posix() not in sensor.tiles and (root / path).is_relative_to(sensor.location):
            path = (root / path).relative_to(sensor.location)
    return plain(path.as_posix())


def _label_files(labels: Path | None, tiles: Iterable[str]) -> dict[str, Path]:
    """The label file of each tile that has one. Raises InputError if there is none for any of them."""
    if labels is None:
        return {}
    paths = {tile_name(path, labels): path for path in (tifs_below(labels) if labels.is_dir() else [labels])}
    names = dict.fromkeys(tiles)
    if len(names) == 1 and len(paths) == 1:
        return dict(zip(names, paths.values(), strict=True))
    if not paths:
        raise InputError(f"{labels}: no .tif files in this folder")
    unmatched = [path for name, path in paths.items() if name not in names]
    if len(unmatched) == len(paths):
        first = f"the first is {unmatched[0].name}, an image {next(iter(names))}"
        raise InputError(f"{labels}: no label file is called as an image is; {first}")
    if unmatched:
        what = "1 label file matches" if len(unmatched) == 1 else f"{len(unmatched)} label files match"
        log.warning("%s: %s no image, %s first", labels, what, unmatched[0].name)
    return {name: path for name, path in paths.items() if name in names}


# --- what the modalities are ------------------------------------------------------------------------------------------
def _first_header(paths: Iterable[Path], files: RasterFiles, root: Path) -> Header:
    """The header of the first file that can be opened: one broken file must not keep the others from being used."""
    problem = ""
    for path in paths:
        try:
            return files.header(path)
        except BrokenSampleError as error:
            problem = problem or str(error)
    raise InputError(f"data.root={root}: no file can be opened; the first: {problem}")


def _layer(name: str, declared: Modality | None, sensor: Sensor, header: Header, meta: Meta, root: Path) -> scene.Layer:
    """How a modality is read: as it is declared, else as its first file and meta.json describe it."""
    dated = sensor.dated
    if declared is None:
        bands = tuple(scene.bands_of(header, meta.names("bands", name)))
        gsd = meta.number("resolution_m", name) or header.gsd() or DEFAULT_GSD
        location = sensor.location.relative_to(root).as_posix()
        declared = Modality(bands=bands, band_sets=(bands,), temporal=dated, gsd=gsd, files=location)
    layer = scene.Layer(name, declared, meta)
    matched = layer.match(header)
    if header.mask_band is not None and header.mask_band not in matched:
        log.warning("%s: band %d is taken as the mask of the others", header.path, header.mask_band)
    return layer


def _check_scene(layout: Layout, files: RasterFiles) -> None:
    """All files of a scene are on one grid and have the bands; one that cannot be opened is reported when read."""
    assert layout.grid is not None
    paths = {name: [p for series in tiles.values() for p in series.values()] for name, tiles in layout.files.items()}
    for name, each in {**paths, "": layout.labels.values()}.items():
        for path in each:
            try:
                header = files.header(path)
            except BrokenSampleError:
                continue
            scene.check_grid(header, layout.grid)
            if name:
                layout.layers[name].match(header)


def _check_tiles(layout: Layout, files: RasterFiles) -> dict[str, Header]:
    """The tiles of a modality have pixels of one size. Returns a header of each tile. Raises InputError."""
    headers: dict[str, Header] = {}
    for name, tiles in layout.files.items():
        first: tuple[Path, float] | None = None
        for tile in (tile for tile in layout.index.names if tile in tiles):
            try:
                header = headers[tile] = files.header(next(iter(tiles[tile].values())))
            except BrokenSampleError:
                continue
            gsd = header.gsd()
            if gsd is None:
                continue
            first = first or (header.path, gsd)
            if abs(math.log(gsd / first[1])) > math.log(1 + scene.MAX_GSD_CHANGE):
                raise InputError(
                    f"{header.path}: has pixels of {gsd:.4g} m, but {first[0]} of {name} has {first[1]:.4g} m; "
                    "resample one of them (gdalwarp -tr), or leave it out by index.csv"
                )
    return headers


def _with_ground(index: TileIndex, headers: Mapping[str, Header], root: Path) -> TileIndex:
    """The same tiles, those that share ground in one group, unless the table says which are."""
    if index.groups is not None:
        return index
    groups = ground_groups(headers)
    if index.splits is None:
        return replace(index, groups=tuple(groups.get(tile, tile) for tile in index.names))
    first: dict[str, tuple[str, str]] = {}
    for tile, split in zip(index.names, index.splits, strict=True):
        other, before = first.setdefault(groups.get(tile, tile), (tile, split))
        if {split, before} == {"train", "val"}:
            log.warning(
                "%s: %s (%s) and %s (%s) share ground; name groups in index.csv", root, tile, split, other, before
            )
            break
    return index

"""Which files of a folder are of which modality, place and date: as declared, as a table says, or by their names."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.rasters.filenames import FilesByTile, add, by_tile, find_date, names_labels, plain, tifs_below
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
from hybrid_patch.data.rasters.tables import Row
from hybrid_patch.data.source import BrokenSampleError, safe_name
from hybrid_patch.errors import InputError

IMAGES = "images"
"""The modality of files that no folder names."""


class Sensor(NamedTuple):
    """Where the files of a modality are, and what they are.

    Attributes:
        location: the folder or the file.
        tiles: the files, by place and date.
    """

    location: Path
    tiles: FilesByTile

    @property
    def dated(self) -> bool:
        """Whether its files have dates."""
        return any(date is not None for series in self.tiles.values() for date in series)

    def paths(self) -> list[Path]:
        """All files."""
        return [path for series in self.tiles.values() for path in series.values()]


def find_sensors(
    root: Path, declared: Mapping[str, Modality], labels: Path | None, files: RasterFiles
) -> dict[str, Sensor]:
    """The files of each modality. Raises InputError if there are none, or some cannot be told apart."""
    locations = {name: _location(root, name, modality) for name, modality in declared.items()}
    sensors = {}
    for name, location in (locations or _look_around(root, labels, files)).items():
        paths = tifs_below(location) if location.is_dir() else [location]
        if location == root and labels is not None:
            paths = [path for path in paths if path != labels and labels not in path.parents]
        if not paths:
            raise InputError(f"{location}: no .tif files in this folder")
        sensors[name] = Sensor(location, joined(by_tile(location, paths), files))
    return sensors


def sensors_of_table(root: Path, rows: Sequence[Row], declared: Mapping[str, Modality]) -> dict[str, Sensor]:
    """The files that the rows of a table list by path, and the labels under the name `labels`.

    Rows of sensors that are not declared, where some are, are left out. Raises InputError.
    """
    sensors: dict[str, Sensor] = {}
    for row in rows:
        name = safe_name(row.get("sensor") or IMAGES)
        if declared and name not in declared and name != "labels":
            continue
        try:
            date = datetime.date.fromisoformat(row["date"][:10]) if row.get("date") else None
        except ValueError:
            raise InputError(f"{root}: the table has the date {row['date']!r}; write it as 2024-05-31") from None
        path = root / row["path"]
        series = sensors.setdefault(name, Sensor(root, {})).tiles.setdefault(tile_of(row), {})
        add(series, None if name == "labels" else date, path)
    missing = [name for name in declared if name not in sensors]
    if missing:
        raise InputError(f"data.modalities.{missing[0]}: the table of {root} lists no file of this sensor")
    return sensors


def tile_of(row: Row) -> str:
    """The tile of a row of a table that lists files by path."""
    return row.get("tile") or plain(Path(row["path"]).stem)


def _location(root: Path, name: str, modality: Modality) -> Path:
    """The folder or file of a declared modality."""
    wanted = [each for each in (modality.files, name, f"{name}.tif") if each is not None]
    for location in wanted:
        if (root / location).exists():
            return root / location
    raise InputError(f"data.modalities.{name}.files: neither folder nor file {' or '.join(wanted)} under {root}")


def _look_around(root: Path, labels: Path | None, files: RasterFiles) -> dict[str, Path]:
    """The folders and files of a folder that nobody has described, by modality."""
    if (root / IMAGES).is_dir() and tifs_below(root / IMAGES):
        return {IMAGES: root / IMAGES}
    entries = [
        path for path in sorted(root.iterdir()) if path.name[0] != "." and path != labels and not names_labels(path)
    ]
    with_tifs = {root / tif.relative_to(root).parts[0] for tif in tifs_below(root)}
    folders = [path for path in entries if path in with_tifs and path.is_dir()]
    singles = [path for path in entries if path in with_tifs and not path.is_dir()]
    try:
        dates = [find_date(folder.name) for folder in folders]
        if folders and not all(dates) and not _are_places(folders, files):
            static = [path for path in singles if len(files.header(path).bands) == 1]
            return {safe_name(plain(path.stem if path in static else path.name)): path for path in [*folders, *static]}
        if folders or (len(singles) > 1 and not _are_sensors(singles, files)):
            return {IMAGES: root}
    except BrokenSampleError as error:
        raise InputError(str(error)) from error
    if not singles:
        raise InputError(
            f"data.root={root}: no .tif files in it; say where the images are with data.modalities.<name>.files"
        )
    return {safe_name(plain(path.stem)) if len(singles) > 1 else IMAGES: path for path in singles}


def _are_places(folders: Sequence[Path], files: RasterFiles) -> bool:
    """Whether some folders hold the same bands at different tiles, and not different bands of one place."""
    headers = [files.header(tifs_below(folder)[0]) for folder in folders]
    return len(folders) > 1 and _same_bands(headers) and not all(h.same_grid(headers[0]) for h in headers)


def _are_sensors(paths: Sequence[Path], files: RasterFiles) -> bool:
    """Whether some files hold different bands of one place."""
    headers = [files.header(path) for path in paths]
    return not _same_bands(headers) and all(header.same_grid(headers[0]) for header in headers)


def _same_bands(headers: Sequence[Header]) -> bool:
    return len({(len(header.bands), header.names) for header in headers}) == 1


def joined(tiles: FilesByTile, files: RasterFiles) -> FilesByTile:
    """Dated files of the same pixels on the ground are of one place, whatever they are called.

    The names of products have more in them than place and date: a satellite, an orbit, a version.
    """
    if len(tiles) == 1 or any(None in series for series in tiles.values()):
        return tiles
    joined: FilesByTile = {}
    grids: dict[object, str] = {}
    for place, series in tiles.items():
        key: object = place
        try:
            header = files.header(next(iter(series.values())))
            if header.has_transform:
                key = (header.crs, header.transform, header.height, header.width)
        except BrokenSampleError:
            pass  # Reported when it is read.
        target = joined.setdefault(grids.setdefault(key, place), {})
        for date, path in series.items():
            add(target, date, path)
    return joined

"""What a folder of GeoTIFFs says about itself: the table of its files (`index.csv`), and its `meta.json`."""

import csv
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_patch.config.data_options import read_json
from hybrid_patch.data.rasters.filenames import plain
from hybrid_patch.errors import InputError, require_extra

SPLITS = ("train", "val", "test")
COLUMNS = ("path", "file", "tile", "sensor", "date", "split", "group", "label")
Row = dict[str, str]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TileIndex:
    """The tiles of a folder.

    Attributes:
        names: of the tiles.
        splits: train, val or test for each; None if nobody has said.
        labels: the name of each tile's class, empty for none; None if nobody has said.
        groups: the name of each tile's group; None: each is its own.
    """

    names: tuple[str, ...]
    splits: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None


def read_table(root: Path) -> tuple[Path, list[Row]] | None:
    """The rows of `index.csv` or `index.parquet`, of the columns in `COLUMNS`; None if there is neither.

    Raises InputError, also for a table without the column `file` or `path`, and for one without rows.
    """
    path = next((root / name for name in ("index.csv", "index.parquet") if (root / name).is_file()), None)
    if path is None:
        return None
    rows = _csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path)
    if not rows:
        raise InputError(f"{path}: lists no tiles")
    if "path" not in rows[0] and "file" not in rows[0]:
        raise InputError(f"{path}: has no column 'file' or 'path'; it has {', '.join(rows[0]) or 'none that is known'}")
    for number, row in enumerate(rows, 2):
        if row.get("split", "train") not in SPLITS:
            raise InputError(f"{path}: line {number}: split is {row['split']!r}; it must be one of {', '.join(SPLITS)}")
    return path, rows


def _csv_rows(path: Path) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, skipinitialspace=True)
            rows, columns = list(reader), [name for name in reader.fieldnames or () if name.strip() in COLUMNS]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as CSV: {error}") from error
    for number, row in enumerate(rows, 2):
        if any(row[column] is None for column in columns):
            raise InputError(f"{path}: line {number} has fewer fields than the header")
    return [{column.strip(): plain(row[column]).replace("\\", "/") for column in columns} for row in rows]


def _parquet_rows(path: Path) -> list[Row]:
    require_extra("geo", "pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        names = [name for name in parquet.read_schema(path).names if name in COLUMNS]
        rows = parquet.read_table(path, columns=names).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: not readable as Parquet: {' '.join(str(error).split())}") from error
    return [{name: "" if value is None else plain(str(value)) for name, value in row.items()} for row in rows]


def tile_index(path: Path, rows: Sequence[Row], tile_of: Callable[[Row], str], all_tiles: Collection[str]) -> TileIndex:
    """The tiles that a table lists, in its order; those that it does not list are left out, with a warning.

    Raises InputError for a tile in two splits or groups, and for a group in two splits.
    """
    tiles: dict[str, Row] = {}
    split_of: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        tile = tile_of(row)
        if "path" not in row and tile in tiles:
            raise InputError(f"{path}: {row['file']} is listed twice")
        for column in ("split", "group", "label"):
            if tiles.get(tile, row).get(column) != row.get(column):
                before = tiles[tile][column]
                raise InputError(f"{path}: line {number}: {column} of {tile} is {row[column]!r}, and was {before!r}")
        tiles.setdefault(tile, row)
        group, split = row.get("group", tile), row.get("split", "")
        if split_of.setdefault(group, split) != split:
            raise InputError(
                f"{path}: line {number}: group {group} is in both {split_of[group]} and {split}; tiles of one group "
                "may share ground and must be in one split"
            )
    left_out = set(all_tiles) - set(tiles)
    if left_out:
        log.warning("%s: %d tiles are not listed and are left out, %s first", path, len(left_out), min(left_out))
    columns = [
        tuple(row[name] for row in tiles.values()) if name in rows[0] else None for name in ("split", "label", "group")
    ]
    return TileIndex(tuple(tiles), *columns)


@dataclass(frozen=True)
class Meta:
    """What the files do not say; a key may carry a modality's name in front (`s2_bands`), which then comes first."""

    path: Path
    values: Mapping[str, Any]

    def names(self, key: str, modality: str | None = None) -> tuple[str, ...]:
        """A list of names, empty if there is none."""
        value = self._get(key, modality)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise InputError(f"{self.path}: {key} must be a list of names, not {value!r}")
        return tuple(value)

    def number(self, key: str, modality: str) -> float | None:
        """A number, None if there is none."""
        value = self._get(key, modality)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{self.path}: {key} must be a number, not {value!r}")
        return None if value is None else float(value)

    def _get(self, key: str, modality: str | None) -> Any:
        return self.values.get(f"{modality}_{key}", self.values.get(key))


def read_meta(path: Path) -> Meta:
    """Read it; empty if the file does not exist. Raises InputError."""
    return Meta(path, read_json(path))

"""What a folder of GeoTIFFs says about itself: the table of its files (`index.csv`), and its `meta.json`."""

import csv
import io
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hybrid_patch.config.data_options import content, read_json
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
    for path, read in ((root / "index.csv", _csv), (root / "index.parquet", _parquet)):
        table = content(path)
        if table is not None:
            return path, _rows(path, read(path, table))
    return None


def _rows(path: Path, columns: Mapping[str, Sequence[str]]) -> list[Row]:
    """The rows of a table's columns. By columns, as a table may have a million lines."""
    plain_once = cache(plain)
    lines = list(zip(*(map(plain_once, values) for values in columns.values()), strict=True))
    if not lines:
        raise InputError(f"{path}: lists no tiles")
    if "path" not in columns and "file" not in columns:
        raise InputError(f"{path}: has no column 'file' or 'path'; it has {', '.join(columns) or 'none that is known'}")
    if len(set(lines)) < len(lines):
        before: set[tuple[str, ...]] = set()
        for number, line in enumerate(lines, 2):
            if line in before:
                listed = columns.get("path", columns.get("file", ()))[number - 2]
                raise InputError(f"{path}: line {number}: {listed} is listed twice")
            before.add(line)
    for number, split in enumerate(columns.get("split", ()), 2):
        if plain_once(split) not in SPLITS:
            raise InputError(f"{path}: line {number}: split is {split!r}; it must be one of {', '.join(SPLITS)}")
    return [dict(zip(columns, line, strict=True)) for line in lines]


def _csv(path: Path, table: bytes) -> dict[str, list[str]]:
    """The columns of a table that count, each with the values of all lines."""
    try:
        text = io.StringIO(table.decode("utf-8-sig"), newline="")
        header, *lines = [tuple(line) for line in csv.reader(text, skipinitialspace=True, strict=True) if line] or [()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as CSV: {error}") from error
    numbers = {name.strip(): number for number, name in enumerate(header) if name.strip() in COLUMNS}
    last = max(numbers.values(), default=0)
    short = next((number for number, line in enumerate(lines, 2) if len(line) <= last), None)
    if short is not None:
        raise InputError(f"{path}: line {short} has fewer fields than the header")
    return {name: [line[number].replace("\\", "/") for line in lines] for name, number in numbers.items()}


def _parquet(path: Path, table: bytes) -> dict[str, list[str]]:
    """As `_csv`."""
    require_extra("geo", "pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(table))
        columns = {name: file.read([name])[name].to_pylist() for name in file.schema_arrow.names if name in COLUMNS}
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: not readable as Parquet: {error}") from error
    return {name: ["" if value is None else str(value) for value in values] for name, values in columns.items()}


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

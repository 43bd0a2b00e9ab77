"""What a folder of GeoTIFFs says about itself: the list of its tiles (`index.csv`), and its `meta.json`."""

import csv
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_patch.config.data_options import read_json
from hybrid_patch.errors import InputError

SPLITS = ("train", "val", "test")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TileIndex:
    """The tiles of a folder.

    Attributes:
        names: of their files.
        splits: train, val or test for each; None if index.csv has no such column.
        labels: the name of each tile's class, empty for none; None if index.csv has no such column.
        groups: the name of each tile's group; None: each is its own.
    """

    names: tuple[str, ...]
    splits: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None


def read_index(root: Path, tile_names: frozenset[str]) -> TileIndex:
    """Read `index.csv` (columns file, and if wanted split, group and label), or list all files.

    Tiles that index.csv does not name are left out. Raises InputError: no column `file`, a file named twice, a split
    that is none, a group in two splits.
    """
    path = root / "index.csv"
    if not path.is_file():
        return TileIndex(tuple(sorted(tile_names)))
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, skipinitialspace=True)
            rows, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as CSV: {error}") from error
    if "file" not in columns:
        raise InputError(f"{path}: has no column 'file'; its columns are {', '.join(columns) or 'none'}")
    columns = [column for column in ("file", "split", "group", "label") if column in columns]
    for number, row in enumerate(rows, 2):
        if any(row[column] is None for column in columns):
            raise InputError(f"{path}: line {number} has fewer fields than the header")
    table = {column: tuple(row[column] for row in rows) for column in columns}
    names, splits, groups = table["file"], table.get("split"), table.get("group")
    labels = tuple(map(str.strip, table["label"])) if "label" in table else None
    if not names:
        raise InputError(f"{path}: lists no tiles")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"{path}: {twice} is listed twice")
    if splits is not None:
        _check_splits(path, splits, groups or names)
    left_out = tile_names - set(names)
    if left_out:
        log.warning("%s: %d tiles are not listed and are left out, %s first", path, len(left_out), min(left_out))
    return TileIndex(names, splits, labels, groups)


def _check_splits(path: Path, splits: tuple[str, ...], groups: tuple[str, ...]) -> None:
    split_of: dict[str, str] = {}
    for number, (split, group) in enumerate(zip(splits, groups, strict=True), 2):
        if split not in SPLITS:
            raise InputError(f"{path}: line {number}: split is {split!r}; it must be one of {', '.join(SPLITS)}")
        if split_of.setdefault(group, split) != split:
            raise InputError(
                f"{path}: line {number}: group {group} is in both {split_of[group]} and {split}; tiles of one group "
                "may share ground and must be in one split"
            )


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

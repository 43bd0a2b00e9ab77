"""The list of the tiles of a folder: their names, splits and groups, from its `index.csv` or without one."""

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

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

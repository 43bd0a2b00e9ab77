"""The list of the tiles of a folder: their names, splits and groups, from its `index.csv` or without one."""

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from hybrid_patch.errors import InputError

Array = np.ndarray
SPLITS = ("train", "val", "test")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TileIndex:
    """The tiles of a folder.

    Attributes:
        files: their file names.
        splits: train, val or test for each; None if index.csv has no such column.
        groups: the name of each tile's group; without a column, each tile is its own.
        labels: the name of each tile's class, empty for none; None if index.csv has no such column.
    """

    files: tuple[str, ...]
    splits: tuple[str, ...] | None
    groups: tuple[str, ...]
    labels: tuple[str, ...] | None

    def group_numbers(self) -> Int[Array, " n"]:
        """A number for each tile's group."""
        return np.unique(np.array(self.groups), return_inverse=True)[1].reshape(-1).astype(np.int64)


def read_index(root: Path, tile_names: frozenset[str]) -> TileIndex:
    """Read `index.csv` (columns file, and if wanted split, group and label), or list all files.

    Tiles that index.csv does not name are left out. Raises InputError: no column `file`, a file named twice, a split
    that is none, a group in two splits.
    """
    path = root / "index.csv"
    if not path.is_file():
        files = tuple(sorted(tile_names))
        return TileIndex(files, None, files, None)
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, skipinitialspace=True)
            columns = reader.fieldnames or ()
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as CSV: {error}") from error
    if "file" not in columns:
        raise InputError(f"{path}: has no column 'file'; its columns are {', '.join(columns) or 'none'}")
    for number, row in enumerate(rows, 2):
        if any(row.get(column) is None for column in ("file", "split", "group", "label") if column in columns):
            raise InputError(f"{path}: line {number} has fewer fields than the header")
    files = tuple(row["file"] for row in rows)
    splits = tuple(row["split"] for row in rows) if "split" in columns else None
    groups = tuple(row["group"] for row in rows) if "group" in columns else files
    labels = tuple(row["label"].strip() for row in rows) if "label" in columns else None
    if not files:
        raise InputError(f"{path}: lists no tiles")
    if len(set(files)) < len(files):
        twice = next(file for i, file in enumerate(files) if file in files[:i])
        raise InputError(f"{path}: {twice} is listed twice")
    if splits is not None:
        _check_splits(path, splits, groups)
    left_out = tile_names - set(files)
    if left_out:
        log.warning("%s: %d tiles are not listed and are left out, %s first", path, len(left_out), min(left_out))
    return TileIndex(files, splits, groups, labels)


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

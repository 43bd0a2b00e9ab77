"""What the names of files say: which are GeoTIFFs, and the place and the date of each."""

import datetime
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hybrid_patch.errors import InputError
from hybrid_patch.runs.records import require_file

LABEL_NAMES = ("labels", "label", "lulc")
"""Folders and files of these names, whatever the case, are labels and no images."""
DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_]?)(\d\d)\2(\d\d)(?:T[\d:-]+Z?)?(?!\d)")
"""20210531, 2021-05-31 or 2021_05_31, and a time of day behind a T."""
SEPARATORS = " _-./"

Series = dict[datetime.date | None, Path]
"""The files of a modality at one place, by date; of a static modality one file, of date None."""
FilesByTile = dict[str, Series]


class Dated(NamedTuple):
    """A text with a date in it."""

    before: str
    date: datetime.date
    after: str


def find_date(text: str) -> Dated | None:
    """The first date in the last part of a path that has one."""
    parts = text.split("/")
    for number in reversed(range(len(parts))):
        for match in DATE.finditer(parts[number]):
            try:
                date = datetime.date(int(match[1]), int(match[3]), int(match[4]))
            except ValueError:
                continue
            before = "/".join([*parts[:number], parts[number][: match.start()]])
            after = "/".join([parts[number][match.end() :], *parts[number + 1 :]])
            return Dated(before.strip(SEPARATORS), date, after.strip(SEPARATORS))
    return None


def tifs_below(folder: Path) -> list[Path]:
    """The GeoTIFFs of a folder and the folders in it, by name; each once, whatever links lead to it.

    Hidden files and folders hold what systems and tools have left, and not the person's images.
    """
    return sorted(_walk(folder, set()))


def _walk(folder: Path, visited: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    subfolders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            linked = entry.is_symlink()
            if os.path.isdir(entry.path) if linked else entry.is_dir():  # the former takes links to themselves
                subfolders.append((linked, entry.path))  # what is really here comes first
            elif is_tif(entry.name):
                target = os.path.realpath(entry.path) if linked else f"{real}/{entry.name}"
                if target not in visited:
                    visited.add(target)
                    yield Path(entry.path)
    for _, path in sorted(subfolders):
        yield from _walk(Path(path), visited)


def is_tif(name: str) -> bool:
    """Whether a file is called as a GeoTIFF is."""
    return name.strip().casefold().endswith((".tif", ".tiff"))


def labels_location(root: Path, given: str | None) -> Path | None:
    """The folder or file of the labels, as configured or by its name. Raises InputError."""
    if given is not None:
        if not (root / given).exists():
            raise InputError(f"data.labels={given}: no such file or folder under {root}")
        return root / given
    return next(filter(names_labels, sorted(root.iterdir())), None)


def names_labels(path: Path) -> bool:
    """Whether a folder or file is called as labels are. Raises DamagedFileError for a fifo or a link to nothing."""
    if path.stem.casefold() not in LABEL_NAMES:
        return False
    if not path.suffix and not path.is_dir():
        require_file(path)
    return path.is_dir() or is_tif(path.name)


def plain(name: str) -> str:
    """A name as it is compared: without blanks around it, in one normal form of Unicode."""
    return unicodedata.normalize("NFC", name.strip())


def tile_name(path: Path, location: Path) -> str:
    """What a file without a date is called: its path below a folder, without the suffix."""
    return plain(path.relative_to(location).with_suffix("").as_posix()) if path != location else plain(path.stem)


def by_tile(location: Path, paths: Iterable[Path]) -> FilesByTile:
    """The files of a modality by place and date.

    A file's place is its path without the date, and without what stands before or after the date in all of them:
    `t1/2021-05-31.tif` and `t1_20210531.tif` are of the place t1, and `2021-05-31.tif` is of the only place there is.

    Raises InputError if some files have dates and others none, or two files the same place and date.
    """
    dates = {path: find_date(tile_name(path, location)) for path in paths}
    dated = {path: each for path, each in dates.items() if each is not None}
    if not dated:
        return {tile_name(path, location): {None: path} for path in dates}
    undated = next((path for path in dates if path not in dated), None)
    if undated is not None:
        raise InputError(
            f"{location}: {next(iter(dated)).name} has a date and {undated.name} has none; a series has dates in all"
        )
    befores, afters = ({getattr(each, part) for each in dated.values()} for part in ("before", "after"))
    tiles: FilesByTile = {}
    for path, (before, date, after) in dated.items():
        place = "_".join(filter(None, [before * (len(befores) > 1), after * (len(afters) > 1)]))
        add(tiles.setdefault(place, {}), date, path)
    return tiles


def add(series: Series, date: datetime.date | None, path: Path) -> None:
    """Add a file to a series. Raises InputError if it has one of that date."""
    if date in series:
        raise InputError(f"{path}: another file has the same date, {series[date].name}; a series has one file a day")
    series[date] = path

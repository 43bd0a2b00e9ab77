"""The identity of a data set, for the recipe of a run: the same wherever its folder lies, another when it changes."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from hybrid_patch.config.schema import OlmoEarth, Rasters, Synthetic
from hybrid_patch.errors import InputError

SYNTHETIC = "synthetic-1"
"""Scenes are made from the configuration, which is in the recipe already; the number is that of their making."""


def fingerprint(data: Synthetic | OlmoEarth | Rasters) -> str:
    """16 hexadecimal digits (or `synthetic-1`) that stand for a data set.

    Rasters: relative paths and sizes of all .tif files, and what `index.csv` and `meta.json` say. No image is opened,
    so a change of pixels that leaves every size as it was goes unseen. OlmoEarth: what `sample_metadata.csv` says,
    and the statistics. Raises InputError if there is no such folder or file.
    """
    if isinstance(data, Synthetic):
        return SYNTHETIC
    root = Path(data.root)
    if not root.is_dir():
        raise InputError(f"data.root={data.root}: no such folder")
    parts = _rasters(root) if isinstance(data, Rasters) else _olmoearth(root, data.statistics)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())  # Hashed one by one: parts cannot run into each other.
    return digest.hexdigest()[:16]


def _rasters(root: Path) -> Iterator[bytes]:
    sizes = []
    for folder, subfolders, names in os.walk(root, followlinks=True):
        # Hidden folders hold what tools have left, and not the person's images.
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith((".tif", ".tiff")):
                path = Path(folder, name)
                sizes.append((path.relative_to(root).as_posix(), path.stat().st_size))
    yield "\n".join(f"{name}\t{size}" for name, size in sorted(sizes)).encode()
    for name in ("index.csv", "meta.json"):
        path = root / name
        yield path.read_bytes() if path.is_file() else b""


def _olmoearth(root: Path, statistics: str | None) -> Iterator[bytes]:
    metadata = root / "sample_metadata.csv"
    if not metadata.is_file():
        raise InputError(f"data.root={root}: has no sample_metadata.csv")
    yield metadata.read_bytes()
    for name in ("computed.json", "predefined.json") if statistics is not None else ():
        path = Path(str(statistics), name)
        yield path.read_bytes() if path.is_file() else b""

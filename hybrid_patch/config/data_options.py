"""What a data source declares: its options, checks of them, the identity of the data, and the class that reads them.

Each package in `hybrid_patch/data/` is one. Its `__init__.py` assigns a subclass of `DataOptions` to `OPTIONS`, and
imports neither torch nor the libraries that read the files: every config is checked with it.
"""

import hashlib
import json
import pkgutil
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from hybrid_patch.config.field_types import Count, Fraction, Name
from hybrid_patch.config.modality import STRICT, Modality
from hybrid_patch.errors import InputError
from hybrid_patch.runs.records import read_file

LARGEST_TABLE = 2**28
"""Bytes of a table or another small file of a data set: some millions of lines."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataOptions:
    """The options that all data sources share, and what each source declares."""

    reader: ClassVar[str]
    """`module:Class` of the `Source` that is made from these options; imported when the source is opened."""
    extra: ClassVar[tuple[str, ...]] = ()
    """The extra of the installation that the reader needs, and the libraries in it."""
    known_modalities: ClassVar[tuple[str, ...]] = ()
    """The modalities that it can have; empty: any."""

    name: str
    """Of the source, that of its yaml file in `conf/data/`."""
    tile: Count
    """Side of the crops that are trained on, pixels."""
    timesteps: Count
    """Timesteps per crop (a sample with fewer is padded with missing ones)."""
    modalities: dict[Name, Modality]
    """The declared modalities, by name."""
    on_error: Literal["raise", "skip"]
    """What to do with a broken file: stop (`raise`) or replace it by another sample (`skip`)."""
    max_skipped: Fraction
    """Share of skipped samples above which the run stops."""

    def problems(self) -> Iterator[str]:
        """A line (key, value, what is wrong, what to try) for each option that does not fit the others or the disk."""
        for name in self.modalities:
            if self.known_modalities and name not in self.known_modalities:
                yield f"data.modalities.{name}: unknown modality; {self.name} has: {', '.join(self.known_modalities)}"
        if all(modality.decode_only for modality in self.modalities.values()):
            names = ", ".join(self.modalities) or "none"
            yield f"data.modalities={names}: nothing to encode; declare one with decode_only: false"

    def least_bytes(self) -> dict[str, int]:
        """Bytes of memory that the source takes at the least, by the values that decide them."""
        return {}

    def fingerprint(self) -> str:
        """The identity of the data, for the recipe: the same wherever the folder is, another when the data change."""
        raise NotImplementedError


def data_sources() -> tuple[type[DataOptions], ...]:
    """The options of every source, by name."""
    folder = import_module("hybrid_patch.data")
    packages = sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if module.ispkg)
    return tuple(import_module(f"hybrid_patch.data.{name}").OPTIONS for name in packages)


def folder_problems(key: str, path: str) -> Iterator[str]:
    """A line if the folder does not exist."""
    if Path(path).is_dir():
        return
    reason = "is a file" if Path(path).exists() else "there is no such folder"
    quotes = " (the quotes are taken as part of the path)" if path[:1] in ("'", '"') and path[-1:] == path[:1] else ""
    yield f"{key}={path}: {reason}{quotes}; give the path of an existing folder"


def data_root(root: str) -> Path:
    """The folder of `data.root`. Raises InputError if it does not exist."""
    if not Path(root).is_dir():
        raise InputError(f"data.root={root}: no such folder")
    return Path(root)


def digest(parts: Iterable[bytes | None]) -> str:
    """A hash of some contents, 16 hexadecimal digits, for `DataOptions.fingerprint`; None is as empty."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part or b"").digest())  # Hashed one by one: parts cannot run into each other.
    return total.hexdigest()[:16]


def content(path: Path) -> bytes | None:
    """The bytes of a table or another small file; None if it does not exist. Raises InputError."""
    try:
        return read_file(path, LARGEST_TABLE)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if the file does not exist. Raises InputError."""
    text = content(path)
    try:
        value = {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: must be a JSON object")
    return value

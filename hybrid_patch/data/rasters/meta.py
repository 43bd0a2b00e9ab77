"""The `meta.json` of a folder of GeoTIFFs, which describes what the files themselves do not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_patch.config.data_options import read_json
from hybrid_patch.errors import InputError


@dataclass(frozen=True)
class Meta:
    """The folder's meta.json; a key may carry a modality's name in front (`s2_bands`), which then comes first."""

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

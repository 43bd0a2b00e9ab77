"""The tables of an OlmoEarth folder: the modalities of each sample, and the statistics of the bands."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from hybrid_patch.config.data_options import content, read_json
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.statistics import unfitted
from hybrid_patch.errors import InputError

Array = np.ndarray


class Metadata(NamedTuple):
    """The table of the samples, `sample_metadata.csv`."""

    numbers: Int[Array, " n"]  # the samples' own numbers, ascending
    columns: Mapping[str, Bool[Array, " n"]]  # per modality, which samples have it


def read_metadata(path: Path) -> Metadata:
    """Read `sample_metadata.csv`: sample_index, and per modality a column of 0 and 1. Raises InputError."""
    try:
        lines = io.StringIO((content(path) or b"").decode("utf-8-sig"))
        header = [name.strip() for name in lines.readline().split(",")]
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64, ndmin=2)
    except ValueError as error:
        raise InputError(f"{path}: not a table of whole numbers: {' '.join(str(error).split())}") from error
    if "sample_index" not in header or len(set(header)) < len(header):
        raise InputError(f"{path}: needs a column sample_index, and each column once, not {', '.join(header)}")
    if table.size == 0 or table.shape[1] != len(header):
        raise InputError(f"{path}: {table.shape[1] if table.size else 0} columns of numbers below {len(header)} names")
    table = table[np.argsort(table[:, header.index("sample_index")], kind="stable")]
    columns = {name: table[:, i] for i, name in enumerate(header)}
    numbers = columns.pop("sample_index")
    if (np.diff(numbers) == 0).any():
        raise InputError(f"{path}: sample_index {numbers[1:][np.diff(numbers) == 0][0]} is there twice")
    return Metadata(numbers, {name: values != 0 for name, values in columns.items()})


def with_given_statistics(modalities: Mapping[str, Modality], folder: str | None) -> dict[str, Modality]:
    """The same modalities; continuous ones without statistics get those of a folder, where it has them.

    `computed.json` has mean and std per modality and band. Where it lacks a modality or a band of it, `predefined.json`
    has min and max: mean (min + max) / 2 and deviation (max - min) / 4 map these to 0 and 1. Raises InputError if both
    files are missing.
    """
    if folder is None:
        return dict(modalities)
    files = [Path(folder, name) for name in ("computed.json", "predefined.json")]
    tables = {file: read_json(file) for file in files}
    if not any(tables.values()):
        raise InputError(f"data.statistics={folder}: no computed.json or predefined.json in this folder")
    result = dict(modalities)
    for name, modality in unfitted(modalities).items():
        given = (_of_bands(table, name, modality.bands, file) for file, table in tables.items())
        statistics = next((pair for pair in given if pair is not None), None)
        if statistics is not None:
            result[name] = modality.fitted(*statistics)
    return result


def _of_bands(
    table: Mapping[str, Any], name: str, bands: tuple[str, ...], file: Path
) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and std of all bands of a modality; None if the table of a file lacks one. Raises InputError."""
    modality, pairs = table.get(name), []
    for band in bands:
        entry = modality.get(band) if isinstance(modality, dict) else None
        if not isinstance(entry, dict):
            return None
        keys = next((keys for keys in (("mean", "std"), ("min", "max")) if entry.keys() >= set(keys)), None)
        if keys is None:
            return None
        for key in keys:
            if not isinstance(entry[key], int | float):
                raise InputError(f"{file}: {name}.{band}.{key}={entry[key]!r}: not a number")
        a, b = (entry[key] for key in keys)
        pairs.append((a, b) if "mean" in keys else ((a + b) / 2, (b - a) / 4))
    mean, std = np.array(pairs, np.float64).T
    return mean, std

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
    tables = [read_json(Path(folder, name)) for name in ("computed.json", "predefined.json")]
    if not any(tables):
        raise InputError(f"data.statistics={folder}: no computed.json or predefined.json in this folder")
    result = dict(modalities)
    for name, modality in unfitted(modalities).items():
        given = (_of_bands(table.get(name), modality.bands) for table in tables)
        statistics = next((pair for pair in given if pair is not None), None)
        if statistics is not None:
            result[name] = modality.fitted(*statistics)
    return result


def _of_bands(table: Any, bands: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and std of all bands; None if the table lacks one."""
    if not isinstance(table, dict):
        return None
    pairs = []
    for band in bands:
        entry = table.get(band)
        if not isinstance(entry, dict):
            return None
        if entry.keys() >= {"mean", "std"}:
            pairs.append((entry["mean"], entry["std"]))
        elif entry.keys() >= {"min", "max"}:
            pairs.append(((entry["min"] + entry["max"]) / 2, (entry["max"] - entry["min"]) / 4))
        else:
            return None
    mean, std = np.array(pairs, np.float64).T
    return mean, std

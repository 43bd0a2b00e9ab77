"""The HDF5 files of the OlmoEarth layout: opening one, and reading its arrays."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  Registers the zstd filter with HDF5.
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from hybrid_patch.data.source import Array, BrokenSampleError, Window
from hybrid_patch.runs.records import not_a_file

MISSING = -99999
DATE_RANGES = {"day": (1, 31), "month": (0, 11), "year": (1900, 2100)}
"""Of the columns of `timestamps`: the first and the last value."""


class SampleFiles:
    """Opens files for reading, and keeps one open until another is asked for, or `close`.

    A sample is asked for its shape and then for its pixels: on a shared file system every opening is a round trip.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: h5py.File | None = None

    def __getstate__(self) -> dict[str, None]:
        return {"_path": None, "_file": None}  # another process opens its own

    @contextmanager
    def opened(self, path: Path) -> Iterator[h5py.File]:
        """The open file. What HDF5 or the functions below find wrong with it raises a BrokenSampleError."""
        try:
            if path != self._path or self._file is None:
                self.close()
                if special := not_a_file(path):
                    raise OSError(special)
                # Files are only ever read here, and locks are what network file systems lack.
                self._file, self._path = h5py.File(path, "r", locking=False), path
            yield self._file
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            self.close()
            reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
            raise BrokenSampleError(f"{path}: {reason}") from error

    def close(self) -> None:
        """Close the last file."""
        if self._file is not None:
            self._file.close()
        self._file = self._path = None


def sides_of(file: h5py.File, modalities: Iterable[str]) -> tuple[int, int]:
    """Height and width, pixels, of the sample's arrays. Raises ValueError, as the others here do."""
    shapes = {file[name].shape[:2] for name in modalities if isinstance(file.get(name), h5py.Dataset)}
    if len(shapes) != 1:
        listed = ", ".join(map(str, sorted(shapes))) or "none of them"
        raise ValueError(f"the declared modalities must have one height and width, found {listed}")
    height, width = shapes.pop()
    return int(height), int(width)


def timestamps_of(file: h5py.File) -> Int[Array, "t 3"]:
    """Day, month (0-11), year of the timesteps. Raises ValueError if one of them is none."""
    timestamps = np.asarray(file["timestamps"][()])
    if timestamps.ndim != 2 or timestamps.shape[1] != 3 or not len(timestamps):
        raise ValueError(f"timestamps is an array {list(timestamps.shape)}, not [T, 3]")
    for column, (name, (first, last)) in enumerate(DATE_RANGES.items()):
        wrong = ~((timestamps[:, column] >= first) & (timestamps[:, column] <= last))  # NaN too
        if wrong.any():
            raise ValueError(
                f"timestamps has the {name} {timestamps[wrong, column][0]}; its columns are day 1-31, month 0-11, year"
            )
    return timestamps.astype(np.int64)


def timestep_mask(file: h5py.File, name: str, temporal: bool, length: int) -> Bool[Array, " t"]:
    """Which timesteps the packed array of a modality holds."""
    if not temporal:
        return np.ones(1, bool)
    key = f"missing_timesteps_masks/{name}"
    mask = np.asarray(file[key][()]).astype(bool) if key in file else np.ones(length, bool)
    if mask.shape != (length,):
        raise ValueError(f"{key} has {mask.size} timesteps, timestamps has {length}")
    return mask


def dataset_of(file: h5py.File, name: str, shape: tuple[int, ...]) -> Any:
    """An array of the file, which must have this shape."""
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != shape:
        actual = list(dataset.shape) if isinstance(dataset, h5py.Dataset) else "a group"
        raise ValueError(f"{name} is {actual}, not {list(shape)}")
    return dataset


def read_packed(
    dataset: Any,
    window: Window,
    mask: Bool[Array, " t"],
    timesteps: Int[Array, " k"],
    attributes: Mapping[str, Any],
) -> tuple[Float[Array, "h w k c"], Bool[Array, "h w k"]]:
    """A window of a packed series at some timesteps: each one's image, zeros and invalid where the mask is False.

    Of the array's attributes, `scale_factor`, `add_offset` and `_FillValue` (or `missing_value`) count, as in the CF
    conventions: fill values are compared before scaling.
    """
    images = np.zeros((window.height, window.width, len(timesteps), dataset.shape[3]), np.float32)
    valid = np.zeros(images.shape[:3], bool)
    stored = np.flatnonzero(mask[timesteps])
    if len(stored):
        packed = np.cumsum(mask)[timesteps[stored]] - 1
        # One contiguous read: HDF5 decompresses a chunk anew for every piece of a scattered one.
        first, last = int(packed[0]), int(packed[-1])
        series: Shaped[Array, "h w p c"] = dataset[(*window.slices, slice(first, last + 1))]
        raw = series[:, :, packed - first]
        fills = [MISSING, *(attributes[name] for name in ("_FillValue", "missing_value") if name in attributes)]
        scale, offset = float(attributes.get("scale_factor", 1)), float(attributes.get("add_offset", 0))
        values = raw.astype(np.float32) if (scale, offset) == (1, 0) else (raw * scale + offset).astype(np.float32)
        good = (np.isfinite(values) & ~np.isin(raw, np.concatenate([np.ravel(fill) for fill in fills]))).all(-1)
        values[~good] = 0
        images[:, :, stored], valid[:, :, stored] = values, good
    return images, valid

"""One HDF5 file of the OlmoEarth layout: opening it, and what its arrays say.

Whatever is wrong with it is a BrokenSampleError of one line.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  Registers the zstd filter with HDF5.
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.source import BrokenSampleError, Window

Array = np.ndarray

MISSING = -99999


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
    def opened(self, path: Path) -> Iterator[Any]:
        """The open file; whatever HDF5 finds wrong with it, on opening or reading, is a BrokenSampleError."""
        try:
            if path != self._path or self._file is None:
                self.close()
                # Files are only ever read here, and locks are what network file systems lack.
                self._file, self._path = h5py.File(path, "r", locking=False), path
            yield self._file
        except BrokenSampleError:
            self.close()
            raise
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            self.close()
            reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
            raise BrokenSampleError(f"{path}: {reason}") from error

    def close(self) -> None:
        """Close the last file."""
        if self._file is not None:
            self._file.close()
        self._file = self._path = None


def ground(file: Any, path: Path, modalities: Mapping[str, Modality]) -> tuple[int, int]:
    """Height and width, pixels, of the sample's arrays."""
    shapes = {file[name].shape[:2] for name in modalities if name in file and isinstance(file[name], h5py.Dataset)}
    if len(shapes) != 1:
        found = ", ".join(f"{shape}" for shape in sorted(shapes)) or "none of them"
        raise BrokenSampleError(f"{path}: the declared modalities must have one height and width, found {found}")
    height, width = shapes.pop()
    return int(height), int(width)


def timestamps_of(file: Any, path: Path) -> Int[Array, "t 3"]:
    """Day, month (0-11), year of the timesteps."""
    timestamps = np.asarray(file["timestamps"][()])
    if timestamps.ndim != 2 or timestamps.shape[1] != 3 or not len(timestamps):
        raise BrokenSampleError(f"{path}: timestamps is an array {list(timestamps.shape)}, not [T, 3]")
    return timestamps.astype(np.int64)


def present_timesteps(file: Any, path: Path, name: str, temporal: bool, length: int) -> Bool[Array, " t"]:
    """Which timesteps the packed array of a modality holds."""
    if not temporal:
        return np.ones(1, bool)
    key = f"missing_timesteps_masks/{name}"
    present = np.asarray(file[key][()]).astype(bool) if key in file else np.ones(length, bool)
    if present.shape != (length,):
        raise BrokenSampleError(f"{path}: {key} has {present.size} timesteps, timestamps has {length}")
    return present


def dataset_of(file: Any, path: Path, name: str, shape: tuple[int, ...]) -> Any:
    """An array of the file, which must have this shape."""
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != shape:
        found = list(dataset.shape) if isinstance(dataset, h5py.Dataset) else "a group"
        raise BrokenSampleError(f"{path}: {name} is {found}, not {list(shape)}")
    return dataset


def read_packed(
    dataset: Any, window: Window, present: Bool[Array, " t"], timesteps: Int[Array, " k"]
) -> tuple[Float[Array, "h w k c"], Bool[Array, "h w k"]]:
    """A window of a packed series at some timesteps: each one's image, zeros and invalid where there is none."""
    bands = dataset.shape[3]
    images = np.zeros((window.height, window.width, len(timesteps), bands), np.float32)
    valid = np.zeros(images.shape[:3], bool)
    there = np.flatnonzero(present[timesteps])
    if len(there):
        packed = np.cumsum(present)[timesteps[there]] - 1
        # One contiguous read: HDF5 decompresses a chunk anew for every piece of a scattered one.
        first, last = int(packed[0]), int(packed[-1])
        series: Shaped[Array, "h w p c"] = dataset[(*slices(window), slice(first, last + 1))]
        values = series[:, :, packed - first].astype(np.float32)
        good = (np.isfinite(values) & (values != MISSING)).all(-1)
        values[~good] = 0
        images[:, :, there], valid[:, :, there] = values, good
    return images, valid


def slices(window: Window) -> tuple[slice, slice]:
    """Rows and columns of a window."""
    return slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)

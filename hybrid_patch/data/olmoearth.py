"""The OlmoEarth pretraining layout as a source of samples: one HDF5 file per sample, beside `sample_metadata.csv`.

A file holds `latlon [2]`, `timestamps [T, 3]` (day, month 0-11, year) and one array `[H, W, T', C]` per modality that
the sample has. The series of a modality are packed: `missing_timesteps_masks/<modality> [T]` is True where a timestep
is present, and T' counts those. A missing value is -99999.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  Registers the zstd filter with HDF5.
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from hybrid_patch.config.schema import OlmoEarth
from hybrid_patch.data.modality import Modality
from hybrid_patch.data.olmoearth_tables import Metadata, read_metadata, with_given_statistics
from hybrid_patch.data.sample import UNLABELLED, BrokenSampleError, Sample, Window
from hybrid_patch.data.split import hold_out
from hybrid_patch.data.statistics import fit
from hybrid_patch.errors import InputError

Array = np.ndarray

MISSING = -99999
TILES_PER_PARENT = 4
"""Samples 4i ... 4i + 3 are the quarters of one tile of the original acquisition."""
WORLDCOVER = {
    10: "tree cover",
    20: "shrubland",
    30: "grassland",
    40: "cropland",
    50: "built-up",
    60: "bare or sparse vegetation",
    70: "snow and ice",
    80: "permanent water",
    90: "herbaceous wetland",
    95: "mangroves",
    100: "moss and lichen",
}
"""ESA WorldCover's codes and class names; the labels of this source."""

log = logging.getLogger(__name__)


class OlmoEarthSource:
    """A `Source` of a folder in the OlmoEarth pretraining layout.

    Only the metadata is read when it is made (and the samples that statistics are estimated from, if none are given);
    files are opened when they are read, and of them only the declared modalities. The arrays are stored in one chunk
    each, so a window saves memory and not decompression.

    Raises InputError if metadata, statistics or declared modalities do not fit.
    """

    def __init__(self, config: OlmoEarth) -> None:
        self._root = Path(config.root)
        self._metadata = read_metadata(self._root)
        self._labelled = "worldcover" in self._metadata.columns
        self.classes: tuple[str, ...] = tuple(WORLDCOVER.values()) if self._labelled else ()
        self._shapes: dict[int, tuple[int, int, int]] = {}
        usable = _usable(self._metadata, config)
        parents = [str(number) for number in self._metadata.numbers[usable] // TILES_PER_PARENT]
        held_out = hold_out(parents, config.val_share)
        val = np.array([parent in held_out for parent in parents], bool)
        self._train, self._val = usable[~val], usable[val]
        if config.val_share > 0 and not len(self._val):
            log.warning("data.root=%s: all samples are of one parent tile: no validation samples", config.root)
        self.modalities: Mapping[str, Modality] = with_given_statistics(config.modalities, config.statistics)
        self._check_bands()
        self.modalities = fit(self.modalities, self._train, config.tile, self.shape, self._read_unfitted)

    def indices(self, split: str) -> Int[Array, " n"]:
        """Sample numbers (rows of the metadata in the order of sample_index) of `train` or `val`."""
        return self._train if split == "train" else self._val

    def group(self, index: int) -> int:
        """The number of the sample's parent tile."""
        return int(self._metadata.numbers[index]) // TILES_PER_PARENT

    def shape(self, index: int) -> tuple[int, int, int]:
        """Height, width and number of timesteps. Raises BrokenSampleError."""
        if index not in self._shapes:
            with _opened(self._path(index)) as file:
                height, width = _ground(file, self._path(index), self.modalities)
                self._shapes[index] = height, width, len(_timestamps(file, self._path(index)))
        return self._shapes[index]

    def name(self, index: int) -> str:
        """The path of the sample's file."""
        return str(self._path(index))

    def read(self, index: int, window: Window, timesteps: Int[Array, " t"]) -> Sample:
        """Read a window of a sample at some of its timesteps; see `Source.read`."""
        return self._read(index, window, timesteps, self.modalities)

    def _read_unfitted(self, index: int, window: Window, timesteps: Int[Array, " t"]) -> Sample:
        """Like `read`, but only what has no statistics."""
        unfitted = {name: m for name, m in self.modalities.items() if m.kind == "continuous" and m.mean is None}
        return self._read(index, window, timesteps, unfitted)

    def _read(
        self, index: int, window: Window, timesteps: Int[Array, " t"], modalities: Mapping[str, Modality]
    ) -> Sample:
        path = self._path(index)
        images: dict[str, Float[Array, "h w _ _"]] = {}
        valid: dict[str, Bool[Array, "h w _"]] = {}
        with _opened(path) as file:
            ground = _ground(file, path, self.modalities)
            timestamps = _timestamps(file, path)
            for name, modality in modalities.items():
                if name not in file:
                    continue
                present = _present(file, path, name, modality.temporal, len(timestamps))
                dataset = _dataset(file, path, name, (*ground, int(present.sum()), len(modality.bands)))
                steps = timesteps if modality.temporal else np.zeros(1, np.int64)
                images[name], valid[name] = _read_packed(dataset, window, present, steps)
            labels = None
            if self._labelled:
                labels = np.full((window.height, window.width), UNLABELLED, np.int64)
                if "worldcover" in file:
                    labels = _class_of(_dataset(file, path, "worldcover", (*ground, 1, 1))[_slices(window)][..., 0, 0])
            latlon = np.asarray(file["latlon"][()], np.float64) if "latlon" in file else None
        return Sample(images, valid, timestamps[timesteps], latlon, labels)

    def _path(self, index: int) -> Path:
        return self._root / f"sample_{self._metadata.numbers[index]}.h5"

    def _check_bands(self) -> None:
        """Compare the declared bands with the first file that has the modality: a mistake there is in every file."""
        for name, modality in self.modalities.items():
            samples = np.flatnonzero(self._metadata.columns[name])
            if not len(samples):
                continue
            path = self._path(int(samples[0]))
            try:
                with _opened(path) as file:
                    shape = file[name].shape if isinstance(file.get(name), h5py.Dataset) else None
            except BrokenSampleError:
                continue  # Reported when it is loaded; its modalities are then checked one by one.
            if shape is not None and (len(shape) != 4 or shape[3] != len(modality.bands)):
                raise InputError(
                    f"data.modalities.{name}.bands: {len(modality.bands)} bands declared, but {name} in {path} is an "
                    f"array {list(shape)}; declare all bands of the last axis, in order"
                )


def _usable(metadata: Metadata, config: OlmoEarth) -> Int[Array, " n"]:
    """The samples that have something for the encoder to see."""
    for name in config.modalities:
        if name not in metadata.columns:
            raise InputError(
                f"data.modalities.{name}: sample_metadata.csv in {config.root} has no such column; "
                f"it has {', '.join(metadata.columns)}"
            )
    inputs = [metadata.columns[name] for name, modality in config.modalities.items() if not modality.decode_only]
    usable = np.flatnonzero(np.logical_or.reduce(inputs)) if inputs else np.zeros(0, np.int64)
    if not len(usable):
        raise InputError(f"data.modalities: no sample in {config.root} has any modality that the encoder may see")
    return usable


# --- one file ---------------------------------------------------------------------------------------------------------
@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open file; whatever HDF5 finds wrong with it, on opening or reading, is a BrokenSampleError."""
    try:
        # Files are only ever read here, and locks are what network file systems lack.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise BrokenSampleError(f"{path}: {reason}") from error


def _ground(file: Any, path: Path, modalities: Mapping[str, Modality]) -> tuple[int, int]:
    """Height and width, pixels, of the sample's arrays."""
    shapes = {file[name].shape[:2] for name in modalities if name in file and isinstance(file[name], h5py.Dataset)}
    if len(shapes) != 1:
        found = ", ".join(f"{shape}" for shape in sorted(shapes)) or "none of them"
        raise BrokenSampleError(f"{path}: the declared modalities must have one height and width, found {found}")
    height, width = shapes.pop()
    return int(height), int(width)


def _timestamps(file: Any, path: Path) -> Int[Array, "t 3"]:
    timestamps = np.asarray(file["timestamps"][()])
    if timestamps.ndim != 2 or timestamps.shape[1] != 3 or not len(timestamps):
        raise BrokenSampleError(f"{path}: timestamps is an array {list(timestamps.shape)}, not [T, 3]")
    return timestamps.astype(np.int64)


def _present(file: Any, path: Path, name: str, temporal: bool, length: int) -> Bool[Array, " t"]:
    """Which timesteps the packed array of a modality holds."""
    if not temporal:
        return np.ones(1, bool)
    key = f"missing_timesteps_masks/{name}"
    present = np.asarray(file[key][()]).astype(bool) if key in file else np.ones(length, bool)
    if present.shape != (length,):
        raise BrokenSampleError(f"{path}: {key} has {present.size} timesteps, timestamps has {length}")
    return present


def _dataset(file: Any, path: Path, name: str, shape: tuple[int, ...]) -> Any:
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != shape:
        found = list(dataset.shape) if isinstance(dataset, h5py.Dataset) else "a group"
        raise BrokenSampleError(f"{path}: {name} is {found}, not {list(shape)}")
    return dataset


def _read_packed(
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
        series: Shaped[Array, "h w p c"] = dataset[(*_slices(window), slice(first, last + 1))]
        values = series[:, :, packed - first].astype(np.float32)
        good = (np.isfinite(values) & (values != MISSING)).all(-1)
        values[~good] = 0
        images[:, :, there], valid[:, :, there] = values, good
    return images, valid


def _slices(window: Window) -> tuple[slice, slice]:
    return slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)


def _class_of(codes: Shaped[Array, "h w"]) -> Int[Array, "h w"]:
    """WorldCover codes → class index, `UNLABELLED` where there is none."""
    known = np.array(list(WORLDCOVER))
    place = np.searchsorted(known, codes).clip(max=len(known) - 1)
    return np.where(known[place] == codes, place, UNLABELLED)

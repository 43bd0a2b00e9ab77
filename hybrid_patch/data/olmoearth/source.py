"""The OlmoEarth pretraining layout as a source of samples: one HDF5 file per sample and `sample_metadata.csv`.

A file holds `latlon [2]`, `timestamps [T, 3]` (day, month 0-11, year) and one array `[H, W, T', C]` per modality that
the sample has. The series of a modality are packed: `missing_timesteps_masks/<modality> [T]` is True where a timestep
is present, and T' counts those. A missing value is -99999.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Int, Shaped

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.olmoearth import OlmoEarth, sample_file
from hybrid_patch.data.olmoearth.tables import Metadata, read_metadata, with_given_statistics
from hybrid_patch.data.source import UNLABELLED, Array, BrokenSampleError, Sample, Window
from hybrid_patch.data.split import hold_out
from hybrid_patch.data.statistics import fit, unfitted
from hybrid_patch.errors import InputError

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
        self._metadata = read_metadata(config.metadata_file())
        self._labelled = "worldcover" in self._metadata.columns
        self._files = sample_file.SampleFiles()
        # An array, as a dictionary would grow over an epoch.
        self._shapes = np.zeros((len(self._metadata.numbers), 3), np.int32)
        usable = _usable(self._metadata, config)
        parents = [str(number) for number in self._metadata.numbers[usable] // TILES_PER_PARENT]
        val = hold_out(parents, config.val_share)
        self._train, self._val = usable[~val], usable[val]
        if config.val_share > 0 and not len(self._val):
            log.warning("data.root=%s: all samples are of one parent tile: no validation samples", config.root)
        self.modalities: Mapping[str, Modality] = with_given_statistics(config.modalities, config.statistics)
        self._check_bands()
        self._read_names = tuple(unfitted(self.modalities))  # only what statistics are estimated of
        self.modalities = fit(self, config.tile)
        self._read_names = tuple(self.modalities)
        self._files.close()

    def class_names(self) -> tuple[str, ...]:
        """Those of WorldCover, if the folder has it."""
        return tuple(WORLDCOVER.values()) if self._labelled else ()

    def indices(self, split: str) -> Int[Array, " n"]:
        """Sample numbers (rows of the metadata in the order of sample_index) of `train` or `val`."""
        return self._train if split == "train" else self._val

    def group(self, index: int) -> int:
        """The number of the sample's parent tile."""
        return int(self._metadata.numbers[index]) // TILES_PER_PARENT

    def shape(self, index: int) -> tuple[int, int, int]:
        """Height, width and number of timesteps. Raises BrokenSampleError."""
        if not self._shapes[index].any():
            with self._files.opened(self._path(index)) as file:
                self._shapes[index] = *sample_file.sides_of(file, self.modalities), len(sample_file.timestamps_of(file))
        height, width, length = self._shapes[index].tolist()
        return height, width, length

    def name(self, index: int) -> str:
        """The path of the sample's file."""
        return str(self._path(index))

    def read(self, index: int, window: Window, timesteps: Int[Array, " t"], labels: bool = True) -> Sample:
        """Read a window of a sample at some of its timesteps; see `Source.read`."""
        images, valid = {}, {}
        with self._files.opened(self._path(index)) as file:
            sides, timestamps = sample_file.sides_of(file, self.modalities), sample_file.timestamps_of(file)
            for name in self._read_names:
                if name not in file:
                    continue
                modality = self.modalities[name]
                mask = sample_file.timestep_mask(file, name, modality.temporal, len(timestamps))
                dataset = sample_file.dataset_of(file, name, (*sides, int(mask.sum()), len(modality.bands)))
                steps = timesteps if modality.temporal else np.zeros(1, np.int64)
                images[name], valid[name] = sample_file.read_packed(dataset, window, mask, steps, dataset.attrs)
            classes = None
            if labels and self._labelled:
                classes = np.full((window.height, window.width), UNLABELLED, np.int64)
                if "worldcover" in file:
                    worldcover = sample_file.dataset_of(file, "worldcover", (*sides, 1, 1))
                    classes = _class_of(worldcover[window.slices][..., 0, 0])
            latlon = np.asarray(file["latlon"][()], np.float64) if "latlon" in file else None
        self._files.close()
        return Sample(images, valid, timestamps[timesteps], latlon, classes)

    def _path(self, index: int) -> Path:
        return self._root / f"sample_{self._metadata.numbers[index]}.h5"

    def _check_bands(self) -> None:
        """Compare the declared bands with the first file that has the modality; a mistake would be in all files."""
        for name, modality in self.modalities.items():
            for number in np.flatnonzero(self._metadata.columns[name])[:1]:
                path = self._path(int(number))
                try:
                    with self._files.opened(path) as file:
                        shape = file[name].shape if isinstance(file.get(name), h5py.Dataset) else None
                except BrokenSampleError:
                    continue  # Reported when it is loaded; its modalities are then checked one by one.
                if shape is not None and (len(shape) != 4 or shape[3] != len(modality.bands)):
                    raise InputError(
                        f"data.modalities.{name}.bands: {len(modality.bands)} bands declared, but {name} in {path} is "
                        f"an array {list(shape)}; declare all bands of the last axis, in order"
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


def _class_of(codes: Shaped[Array, "h w"]) -> Int[Array, "h w"]:
    """WorldCover codes → class index, `UNLABELLED` where there is none."""
    listed = np.array(list(WORLDCOVER))
    index = np.searchsorted(listed, codes).clip(max=len(listed) - 1)
    return np.where(listed[index] == codes, index, UNLABELLED)

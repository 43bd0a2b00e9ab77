"""Modalities: declared (`conf/modality/*.yaml`, or found in a folder of rasters), never coded in."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from hybrid_patch.config.field_types import Code, FolderPath, Name

Array = np.ndarray

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
KEYWORDS = ConfigDict(**STRICT, alias_generator=lambda name: name.removesuffix("_"), validate_by_name=True)
"""For a key that is a keyword of Python, like `from`: its field is named `from_`."""


NORMALISED_MEAN, NORMALISED_STD = 0.5, 0.25
"""Of normalised values, of a band with the statistics that normalise it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Modality:
    """One kind of measurement: its bands, how they are embedded together, and how their values are normalised."""

    bands: tuple[Name, ...] = Field(min_length=1)
    """Names of the bands, in the order of the channel axis of the source's arrays."""
    band_sets: tuple[tuple[str, ...], ...] = Field(min_length=1)
    """Bands that are embedded together into one token; each band is in one set. `S` is their number."""
    temporal: bool
    """One image per timestep (True) or one image that does not change (False, `T` = 1)."""
    kind: Literal["continuous", "categorical"] = "continuous"
    """`continuous` values, or `categorical` codes of a map (a single band; read as one channel per class)."""
    decode_only: bool = False
    """Never an input of the encoder, only a target (maps)."""
    gsd: float = Field(gt=0)
    """Ground sample distance, metres per pixel."""
    mean: tuple[float, ...] | None = None
    """Per band, in the units of the source; null: estimated by the source. A categorical modality has none."""
    std: tuple[float, ...] | None = None
    """As `mean`: values are normalised as `(x - (mean - 2 std)) / (4 std)`."""
    classes: tuple[Code, ...] = ()
    """The codes of a categorical modality, in the order of its channels; empty otherwise."""
    files: FolderPath | None = None
    """`rasters` only: where the images are, relative to the data root (a folder of GeoTIFFs, or one file)."""

    @model_validator(mode="after")
    def _check(self) -> "Modality":
        listed = [band for band_set in self.band_sets for band in band_set]
        if sorted(listed) != sorted(self.bands):
            raise ValueError(f"band_sets {listed} must hold each of the bands {list(self.bands)} once")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != len(self.bands):
                raise ValueError(f"{name} has {len(values)} values for {len(self.bands)} bands")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std are given together or not at all")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be above 0, not {min(self.std)}")
        if self.kind == "categorical" and (len(self.bands) != 1 or len(self.classes) < 2 or not self.decode_only):
            raise ValueError("a categorical modality has one band, at least two classes, and decode_only: true")
        if self.kind == "continuous" and self.classes:
            raise ValueError("classes are for a categorical modality")
        return self

    @property
    def channels(self) -> int:
        """Channels C of the array that the model sees: bands, or classes of a categorical modality."""
        return len(self.classes) if self.kind == "categorical" else len(self.bands)

    @property
    def band_set_channels(self) -> tuple[tuple[int, ...], ...]:
        """For each band set, the indices of its channels in the array that the model sees."""
        if self.kind == "categorical":
            return (tuple(range(len(self.classes))),)
        return tuple(tuple(self.bands.index(band) for band in band_set) for band_set in self.band_sets)

    def fitted(self, mean: Float[Array, " c"], std: Float[Array, " c"]) -> "Modality":
        """The same modality with estimated statistics; a constant band gets a deviation of 1."""
        safe = np.where(std > 0, std, 1.0)
        return dataclasses.replace(self, mean=tuple(map(float, mean)), std=tuple(map(float, safe)))

    def normalise(
        self, values: Float[Array, "*pixels b"], valid: Bool[Array, "*pixels"]
    ) -> tuple[Float[Array, "*pixels c"], Bool[Array, "*pixels"]]:
        """Source values → what the model sees, float32. Raises ValueError if a continuous modality has no statistics.

        Missing pixels become exact zeros; those with a non-finite value or an undeclared map code are missing too.
        """
        if self.kind == "categorical":
            channels = (values == np.asarray(self.classes)).astype(np.float32)
            valid = valid & channels.any(-1)
        else:
            if self.mean is None or self.std is None:
                raise ValueError(f"bands {list(self.bands)} have no mean and std: estimate them first")
            valid = valid & np.isfinite(values).all(-1)
            std = np.asarray(self.std)
            scaled = values - (np.asarray(self.mean) - 2 * std)
            scaled /= 4 * std
            channels = scaled.astype(np.float32)
        channels[~valid] = 0
        return channels, valid

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from hybrid_patch.config.data_options import DataOptions
from hybrid_patch.config.field_types import Count, Seed
from hybrid_patch.config.modality import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Synthetic(DataOptions):
    """Scenes made from a seed: the same on every machine, with labels for every pixel."""

    reader: ClassVar[str] = "hybrid_patch.data.synthetic.source:SyntheticSource"
    known_modalities: ClassVar[tuple[str, ...]] = ("sentinel2_l2a", "sentinel1", "srtm")

    name: Literal["synthetic"]
    scenes: Count
    """Training scenes; a quarter as many more are for validation."""
    scene_size: Count
    """Side of a scene, pixels."""
    scene_timesteps: Count
    """Timesteps of a scene, spread over a year."""
    scene_seed: Seed
    """Seed of the scenes, independent of the run's seed."""

    label_kind: Literal["classes", "numbers"]
    """What the labels are: `classes` of land cover, or `numbers`, the height of the vegetation in metres."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.tile > self.scene_size:
            yield f"data.tile={self.tile}: larger than data.scene_size={self.scene_size}; try {self.scene_size} or less"
        if self.timesteps > self.scene_timesteps:
            most = self.scene_timesteps
            yield f"data.timesteps={self.timesteps}: more than data.scene_timesteps={most}; try {most} or less"

    def least_bytes(self) -> dict[str, int]:
        return {
            f"data.scenes={self.scenes}": 16 * self.scenes,  # their numbers, and their order
            f"data.scene_size={self.scene_size}": 16 * self.scene_size**2,  # the maps of a scene
            f"data.scene_timesteps={self.scene_timesteps}": 64 * self.scene_timesteps,  # dates and spectra
        }

    def fingerprint(self) -> str:
        """The version of how scenes are made; everything else about them is in the recipe already."""
        return "synthetic-2"


OPTIONS = Synthetic

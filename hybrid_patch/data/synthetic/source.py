"""Scenes made from a seed, as a source of samples: farmland as Sentinel-2, Sentinel-1 and SRTM would see it.

A scene's map, spectra and clouds are made when it is first read, and cached; the pixels of a window are made at every
read, which is fast enough not to cache them.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.source import Array, Sample, Window
from hybrid_patch.data.synthetic import Synthetic
from hybrid_patch.data.synthetic.scene import OPTICAL, RADAR, SyntheticScene, make_scene
from hybrid_patch.data.synthetic.spectra import BANDS, CLASSES
from hybrid_patch.errors import InputError

HEIGHT = "srtm"
OPTICAL_MEAN = (1080.0, 1240.0, 1230.0, 2810.0, 1540.0, 2250.0, 2630.0, 2940.0, 2330.0, 1630.0, 1080.0, 2820.0)
OPTICAL_STD = (1170.0, 1090.0, 1130.0, 1200.0, 1090.0, 1080.0, 1160.0, 1220.0, 923.0, 784.0, 1190.0, 1020.0)
STATISTICS = {
    OPTICAL: dict(zip(BANDS, zip(OPTICAL_MEAN, OPTICAL_STD, strict=True), strict=True)),
    RADAR: {"vv": (-11.5, 3.2), "vh": (-18.0, 3.46)},
    HEIGHT: {"srtm": (340.0, 160.0)},
}
"""Mean and standard deviation of each band over the scenes of seed 0: reflectance × 10,000; dB; metres."""
CACHE_BYTES = 64_000_000
"""Scenes are kept up to about this much memory per process."""


class SyntheticSource:
    """A `Source` of `config.scenes` training scenes and a quarter as many for validation.

    Raises InputError when it is made if a modality or band is asked for that scenes do not have.
    """

    def __init__(self, config: Synthetic) -> None:
        self._config = config
        self.modalities: Mapping[str, Modality] = {
            name: _with_statistics(name, modality) for name, modality in config.modalities.items()
        }
        self._scenes: dict[int, SyntheticScene] = {}

    def class_names(self) -> tuple[str, ...]:
        """The land cover of the scenes; none where labels are numbers."""
        return CLASSES if self._config.label_kind == "classes" else ()

    def indices(self, split: str) -> Int[Array, " n"]:
        """Sample numbers of `train` or `val`."""
        train = self._config.scenes
        return np.arange(train) if split == "train" else np.arange(train, train + -(-train // 4))

    def group(self, index: int) -> int:
        """Scenes share no ground."""
        return index

    def shape(self, index: int) -> tuple[int, int, int]:
        """Height, width and number of timesteps."""
        return self._config.scene_size, self._config.scene_size, self._config.scene_timesteps

    def name(self, index: int) -> str:
        """The scene's number and seed."""
        return f"synthetic scene {index} of seed {self._config.scene_seed}"

    def read(self, index: int, window: Window, timesteps: Int[Array, " t"], labels: bool = True) -> Sample:
        """Make a window of a scene at some of its timesteps."""
        scene = self._scene(index)
        images, valid = {}, {}
        for name, modality in self.modalities.items():
            channels = [list(STATISTICS[name]).index(band) for band in modality.bands]
            if name == HEIGHT:
                image = scene.ground.elevation[window.slices][..., None, None]
                valid[name] = np.ones(image.shape[:3], bool)
            else:
                pixels = scene.reflectance if name == OPTICAL else scene.backscatter
                image = np.stack([pixels(t, window) for t in timesteps.tolist()], axis=2)
                valid[name] = scene.valid_mask(name, timesteps, window)
            images[name] = np.where(valid[name][..., None], image[..., channels], np.float32(0))
        classes = numbers = None
        if labels and self._config.label_kind == "numbers":
            numbers = scene.vegetation_height(window)
        elif labels:
            classes = scene.ground.classes[scene.ground.objects[window.slices]]
        return Sample(images, valid, scene.timestamps[timesteps], scene.latlon, classes, numbers=numbers)

    def _scene(self, index: int) -> SyntheticScene:
        """The scene, from memory if it was read lately."""
        scene, config = self._scenes.pop(index, None), self._config
        if scene is None:
            rng = np.random.default_rng([config.scene_seed, index])
            scene = make_scene(rng, config.scene_size, config.scene_timesteps)
            if len(self._scenes) * scene.nbytes > CACHE_BYTES:
                del self._scenes[next(iter(self._scenes))]  # Read longest ago: dictionaries keep the order.
        self._scenes[index] = scene
        return scene


def _with_statistics(name: str, modality: Modality) -> Modality:
    """The modality with mean and std, after a look at whether scenes have it."""
    if name not in STATISTICS:
        raise InputError(f"data.modalities.{name}: synthetic scenes have only {', '.join(STATISTICS)}")
    bands = STATISTICS[name]
    unknown = [band for band in modality.bands if band not in bands]
    if unknown:
        raise InputError(f"data.modalities.{name}.bands: {unknown[0]} is none of {', '.join(bands)}")
    if modality.temporal == (name == HEIGHT) or modality.kind != "continuous":
        kind = "static" if name == HEIGHT else "temporal"
        raise InputError(f"data.modalities.{name}: synthetic scenes have it {kind} and continuous")
    if modality.mean is not None:
        return modality
    mean, std = zip(*(bands[band] for band in modality.bands), strict=True)
    return replace(modality, mean=mean, std=std)

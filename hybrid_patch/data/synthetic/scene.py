"""A synthetic scene: its ground through a year of dates, clouds and sensors, and the pixels of any part of it.

Noise is a hash of a pixel's position, so a window is exactly that part of the whole scene, in any order and process.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8, UInt32

from hybrid_patch.data.source import Array, Window
from hybrid_patch.data.synthetic.landscape import Ground, make_ground, smooth_noise
from hybrid_patch.data.synthetic.spectra import BANDS, CLOUD, COVERS, Look, look

OPTICAL, RADAR = "sentinel2_l2a", "sentinel1"
MISSING = {OPTICAL: 0.12, RADAR: 0.06}
"""Share of the dates that a sensor did not deliver."""
CLEAR = 0.65
"""Share of the dates without a cloud."""
SHADOW_STEP = 9
"""Rows and columns from a cloud to its shadow."""
LOOKS = 4
"""Independent looks that are averaged in a pixel of Sentinel-1: its speckle is a gamma distribution of this shape."""
TEXTURE = np.array([cover.texture for cover in COVERS], np.float32)
HEIGHT = np.array([cover.height for cover in COVERS], np.float32)
HEIGHT_VARIATION = 0.2
"""Relative deviation of the height of vegetation between stands."""


@dataclass(frozen=True)
class SyntheticScene:
    """What the pixels of a scene are made from."""

    ground: Ground
    look: Look
    clumps: Float32[Array, "h w"]  # groups of crowns, gaps in a crop: what varies within 4 pixels, of deviation 1
    stands: Float32[Array, "h w"]  # better and worse growth: what varies within 14 pixels, of deviation 1
    clouds: Mapping[int, UInt8[Array, "_ _"]]  # opacity in 1/255 by timestep, SHADOW_STEP larger at the top and left
    timestamps: Int[Array, "t 3"]
    delivered: Mapping[str, Bool[Array, " t"]]  # per sensor, which dates
    edges: Mapping[str, Float[Array, "t 3"]]  # per sensor (a, b, c): its swath has pixels with a·row + b·column > c
    latlon: Float[Array, "2"]  # of the centre
    key: int  # of the noise

    @property
    def nbytes(self) -> int:
        maps = (self.ground.objects, self.ground.elevation, self.clumps, self.stands, *self.clouds.values())
        tables = (self.look.reflectance, self.look.greening, self.look.backscatter)
        return sum(array.nbytes for array in maps + tables)

    def valid_mask(self, sensor: str, timesteps: Int[Array, " t"], window: Window) -> Bool[Array, "h w t"]:
        a, b, c = self.edges[sensor][timesteps].T
        rows, columns = window.slices
        center = np.arange(len(self.stands)) + 0.5
        inside = a * center[rows, None, None] + b * center[columns, None] > c
        return inside & self.delivered[sensor][timesteps]

    def reflectance(self, t: int, window: Window) -> Float32[Array, "h w 12"]:
        """Sentinel-2 at a timestep: reflectance × 10,000 in whole numbers, clouds and their shadows in the picture."""
        objects = self.ground.objects[window.slices]
        size, stands = len(self.stands), self.stands[window.slices][..., None]
        fine, clumped, broad = np.moveaxis(TEXTURE[self.ground.classes[objects]], 2, 0)[..., None]
        x = self.look.reflectance[t][objects]
        x += 0.08 * stands * self.look.greening[t][objects]
        grain, clumps = _noise(self.key, size, 1, window), self.clumps[window.slices][..., None]
        x *= 1 + fine * grain + clumped * clumps + broad * stands
        if t in self.clouds:
            sky = self.clouds[t]
            shadow, cloud = (
                opacity[window.slices][..., None].astype(np.float32) / 255
                for opacity in (sky, sky[SHADOW_STEP:, SHADOW_STEP:])
            )
            x *= 1 - 0.6 * shadow
            x += cloud * (np.array(CLOUD, np.float32) * (1 + 0.16 * stands) - x)
        x += (0.006 + 0.05 * x) * _noise(self.key + 1 + t, size, len(BANDS), window)
        return np.rint(10000 * np.clip(x, 1e-4, 1.6))

    def vegetation_height(self, window: Window) -> Float32[Array, "h w"]:
        """At its highest in the year, metres: that of the class, more where it grows better."""
        height = HEIGHT[self.ground.classes[self.ground.objects[window.slices]]]
        return height * np.maximum(1 + HEIGHT_VARIATION * self.stands[window.slices], 0)

    def backscatter(self, t: int, window: Window) -> Float32[Array, "h w 2"]:
        """Sentinel-1 at a timestep, dB, with speckle."""
        bits = _hash(self.key - 1 - t, len(self.stands), 2, window)
        # A sum of exponential deviates, each the logarithm of a uniform one, is gamma distributed.
        a, b, c, d = (((bits >> shift & 255).astype(np.float32) + 0.5) / 256 for shift in (0, 8, 16, 24))
        speckle = -np.log(a * b * c * d) / LOOKS
        return self.look.backscatter[t][self.ground.objects[window.slices]] + 10 * np.log10(speckle)


def make_scene(rng: np.random.Generator, size: int, timesteps: int) -> SyntheticScene:
    """A square scene with dates spread over a year."""
    ground = make_ground(rng, size)
    days = np.floor((np.arange(timesteps) + rng.random(timesteps)) * 365 / timesteps).astype(np.int64)
    dates = (np.datetime64(f"{2017 + int(rng.integers(7))}-01-01") + days).tolist()
    timestamps = np.array([[date.day, date.month - 1, date.year] for date in dates])
    return SyntheticScene(
        ground,
        look(rng, ground.classes, days),
        _standardised(smooth_noise(rng, size, 4, 1)),
        _standardised(smooth_noise(rng, size, 14, 2)),
        {t: _clouds(rng, size) for t in np.flatnonzero(rng.random(timesteps) > CLEAR).tolist()},
        timestamps,
        {sensor: _delivered(rng, share, timesteps) for sensor, share in MISSING.items()},
        {sensor: _swath(rng, size, timesteps) for sensor in MISSING},
        np.array([rng.uniform(46, 53), rng.uniform(1, 24)]),
        int(rng.integers(2**32)),
    )


def _standardised(field: Float[Array, "h w"]) -> Float32[Array, "h w"]:
    return ((field - field.mean()) / max(float(field.std()), 1e-6)).astype(np.float32)


def _clouds(rng: np.random.Generator, size: int) -> UInt8[Array, "_ _"]:
    """Opacity of a sky, wider than the scene so that clouds outside it cast shadows too."""
    field = smooth_noise(rng, size + SHADOW_STEP, 48, 4)
    limit = np.quantile(field, 1 - rng.uniform(0.05, 0.45))
    return np.rint(255 * np.clip((field - limit) / 0.06, 0, 1)).astype(np.uint8)


def _delivered(rng: np.random.Generator, missing: float, timesteps: int) -> Bool[Array, " t"]:
    delivered = rng.random(timesteps) >= missing
    delivered[rng.integers(timesteps)] = True
    return delivered


def _swath(rng: np.random.Generator, size: int, timesteps: int) -> Float[Array, "t 3"]:
    """Half planes that hold the scene, or on one date in six cut off a corner of it, up to a quarter."""
    away = rng.uniform(0.2, 1, (timesteps, 2))
    offset = np.where(rng.random(timesteps) < 1 / 6, rng.uniform(0.1, 0.5, timesteps), -1.0)
    flip = rng.random((timesteps, 2)) < 0.5
    signed = np.where(flip, -away, away)
    # The corner with the smallest value of a·row + b·column, and the part of the way to the opposite one.
    corner = np.where(flip, -away, 0).sum(1) * size
    return np.concatenate([signed, (corner + offset * away.min(1) * size)[:, None]], axis=1)


def _noise(key: int, scene_size: int, bands: int, window: Window) -> Float32[Array, "h w c"]:
    """Noise of mean 0 and deviation 1, normal as far as the sum of four uniform bytes is."""
    bits = _hash(key, scene_size, bands, window)
    pairs = (bits & 0x00FF00FF) + (bits >> 8 & 0x00FF00FF)
    total = (pairs & 0xFFFF) + (pairs >> 16)
    return (total.astype(np.float32) - np.float32(510)) * np.float32((4 * (256**2 - 1) / 12) ** -0.5)


def _hash(key: int, scene_size: int, bands: int, window: Window) -> UInt32[Array, "h w c"]:
    """32 random bits for each pixel and band by its position in the scene: MurmurHash3's final mix (Appleby, 2011)."""
    position = np.arange(scene_size, dtype=np.uint32)
    rows, columns = window.slices
    x = (position[rows, None, None] * np.uint32(scene_size) + position[columns, None]) * np.uint32(bands)
    x = (x + np.arange(bands, dtype=np.uint32)) ^ _mix(np.array([key % 2**32], np.uint32))
    return _mix(x)


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ x >> shift) * np.uint32(factor)
    return x ^ x >> 16

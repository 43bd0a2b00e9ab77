"""A synthetic scene: its ground through a year of dates, clouds and sensors, and the pixels of any part of it.

Noise is a hash of a pixel's position, so a window is exactly that part of the whole scene, in any order and process.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8, UInt32

from hybrid_patch.data.synthetic.landscape import Ground, make_ground, smooth_noise
from hybrid_patch.data.synthetic.spectra import BANDS, CLOUD, GRAIN, Look, look

Array = np.ndarray

OPTICAL, RADAR = "sentinel2_l2a", "sentinel1"
MISSING = {OPTICAL: 0.12, RADAR: 0.06}
"""Share of the dates that a sensor did not deliver."""
CLEAR = 0.65
"""Share of the dates without a cloud."""
SHADOW_STEP = 9
"""Rows and columns from a cloud to its shadow."""
LOOKS = 4
"""Independent looks that are averaged in a pixel of Sentinel-1: its speckle is a gamma distribution of this shape."""


@dataclass(frozen=True)
class SyntheticScene:
    """What the pixels of a scene are made from.

    Attributes:
        vigour: `[H, W]` how much denser than in the rest of its object the leaves are.
        clouds: per cloudy timestep `[H + step, W + step]` opacity in 1/255; the scene is its last rows and columns.
        delivered: per sensor `[T]`, False for dates that it did not deliver.
        edges: per sensor `[T, 3]` (a, b, c): only pixels with a·row + b·column > c are within the swath.
        latlon: degrees of the centre.
        key: of the noise.
    """

    ground: Ground
    look: Look
    vigour: Float32[Array, "h w"]
    clouds: Mapping[int, UInt8[Array, "_ _"]]
    timestamps: Int[Array, "t 3"]
    delivered: Mapping[str, Bool[Array, " t"]]
    edges: Mapping[str, Float[Array, "t 3"]]
    latlon: Float[Array, "2"]
    key: int

    @property
    def nbytes(self) -> int:
        """Memory of the larger arrays."""
        maps = (self.ground.objects, self.ground.elevation, self.vigour, *self.clouds.values())
        tables = (self.look.reflectance, self.look.greening, self.look.backscatter)
        return sum(array.nbytes for array in maps + tables)


def make_scene(rng: np.random.Generator, size: int, timesteps: int) -> SyntheticScene:
    """A scene of `size` pixels a side, with `timesteps` dates spread over a year."""
    ground = make_ground(rng, size)
    days = np.floor((np.arange(timesteps) + rng.random(timesteps)) * 365 / timesteps).astype(np.int64)
    start = np.datetime64(f"{2017 + int(rng.integers(7))}-01-01")
    dates = start + days
    months = dates.astype("datetime64[M]")
    timestamps = np.stack(
        [
            (dates - months.astype("datetime64[D]")).astype(np.int64) + 1,
            months.astype(np.int64) % 12,
            np.full(timesteps, start.astype("datetime64[Y]").astype(np.int64) + 1970),
        ],
        axis=1,
    )
    vigour = (0.5 * (smooth_noise(rng, size, 14, 3) - 0.5)).astype(np.float32)
    return SyntheticScene(
        ground,
        look(rng, ground.classes, days),
        vigour,
        {t: _clouds(rng, size) for t in np.flatnonzero(rng.random(timesteps) > CLEAR).tolist()},
        timestamps,
        {sensor: _delivered(rng, share, timesteps) for sensor, share in MISSING.items()},
        {sensor: _swath(rng, size, timesteps) for sensor in MISSING},
        np.array([rng.uniform(46, 53), rng.uniform(1, 24)]),
        int(rng.integers(2**32)),
    )


def _clouds(rng: np.random.Generator, size: int) -> UInt8[Array, "_ _"]:
    """Opacity of a sky with some clouds, wider than the scene so that clouds outside it cast shadows too."""
    field = smooth_noise(rng, size + SHADOW_STEP, 48, 4)
    limit = np.quantile(field, 1 - rng.uniform(0.05, 0.45))
    return np.rint(255 * np.clip((field - limit) / 0.06, 0, 1)).astype(np.uint8)


def _delivered(rng: np.random.Generator, missing: float, timesteps: int) -> Bool[Array, " t"]:
    """Dates that a sensor delivered, at least one of them."""
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


def valid_mask(
    scene: SyntheticScene, sensor: str, timesteps: Int[Array, " t"], rows: slice, columns: slice
) -> Bool[Array, "h w t"]:
    """Where a sensor delivered pixels."""
    a, b, c = scene.edges[sensor][timesteps].T
    size = len(scene.vigour)
    row, column = np.arange(size)[rows, None, None] + 0.5, np.arange(size)[columns, None] + 0.5
    return (a * row + b * column > c) & scene.delivered[sensor][timesteps]


def reflectance(scene: SyntheticScene, t: int, rows: slice, columns: slice) -> Float32[Array, "h w 12"]:
    """Sentinel-2 at a timestep: reflectance × 10,000 in whole numbers, clouds and their shadows in the picture."""
    objects = scene.ground.objects[rows, columns]
    size = len(scene.vigour)
    spread = np.array(GRAIN, np.float32)[scene.ground.classes[objects], None]
    x = scene.look.reflectance[t][objects]
    x += scene.vigour[rows, columns, None] * scene.look.greening[t][objects]
    x *= 1 + spread * _normal(scene.key, size, 1, rows, columns)
    if t in scene.clouds:
        sky = scene.clouds[t]
        shadow = sky[rows, columns, None].astype(np.float32) / 255
        cloud = sky[SHADOW_STEP:, SHADOW_STEP:][rows, columns, None].astype(np.float32) / 255
        x *= 1 - 0.6 * shadow
        x += cloud * (np.array(CLOUD, np.float32) * (1 + 2 * scene.vigour[rows, columns, None]) - x)
    x += (0.006 + 0.05 * x) * _normal(scene.key + 1 + t, size, len(BANDS), rows, columns)
    return np.rint(10000 * np.clip(x, 1e-4, 1.6))


def backscatter(scene: SyntheticScene, t: int, rows: slice, columns: slice) -> Float32[Array, "h w 2"]:
    """Sentinel-1 at a timestep, dB, with speckle."""
    size = len(scene.vigour)
    bits = _hash(scene.key - 1 - t, size, 2, rows, columns)
    # A sum of exponential deviates, each the logarithm of a uniform one, is gamma distributed.
    uniform = [((bits >> shift & 255).astype(np.float32) + 0.5) / 256 for shift in (0, 8, 16, 24)]
    speckle = -np.log(uniform[0] * uniform[1] * uniform[2] * uniform[3]) / LOOKS
    return scene.look.backscatter[t][scene.ground.objects[rows, columns]] + 10 * np.log10(speckle)


def _normal(key: int, size: int, bands: int, rows: slice, columns: slice) -> Float32[Array, "h w c"]:
    """Noise of mean 0 and deviation 1, normal as far as the sum of four uniform bytes is."""
    bits = _hash(key, size, bands, rows, columns)
    pairs = (bits & 0x00FF00FF) + (bits >> 8 & 0x00FF00FF)
    total = (pairs & 0xFFFF) + (pairs >> 16)
    return (total.astype(np.float32) - np.float32(510)) * np.float32((4 * (256**2 - 1) / 12) ** -0.5)


def _hash(key: int, size: int, bands: int, rows: slice, columns: slice) -> UInt32[Array, "h w c"]:
    """32 random bits for each pixel and band, from its place in the scene alone.

    The final mix of MurmurHash3 (Appleby, 2011) of a counter.
    """
    place = np.arange(size, dtype=np.uint32)
    x = (place[rows, None, None] * np.uint32(size) + place[columns, None]) * np.uint32(bands)
    x = (x + np.arange(bands, dtype=np.uint32)) ^ _mix(np.array([key % 2**32], np.uint32))
    return _mix(x)


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    x = x ^ x >> 16
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> 13
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> 16
    return x

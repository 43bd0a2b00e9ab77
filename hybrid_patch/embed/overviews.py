"""Overviews of a map, made from its parts while they are in memory.

GDAL makes the second overview from the first as it lies on the disk, and decodes each block of it anew for each of the
bands: for 64 bands that takes longer than all else.
"""

import math

import numpy as np
from jaxtyping import Shaped

Array = np.ndarray


def levels(height: int, width: int, block: int) -> int:
    """How many overviews, each of half the side: until one block holds all, or a part's corner is no whole pixel."""
    needed = max(math.ceil(math.log2(max(height, width) / block)), 0)
    return min(needed, int(math.log2(block)))


def halve(values: Shaped[Array, "k h w"], nodata: float) -> Shaped[Array, "k h2 w2"]:
    """Means of 2 × 2 pixels, of those that there are; nodata where there is none."""
    k, height, width = values.shape
    found = np.empty((k, -(-height // 2), -(-width // 2)), values.dtype)
    for band, into in zip(values, found, strict=True):
        even = np.pad(band, ((0, height % 2), (0, width % 2)), constant_values=nodata)
        corners = [even[y::2, x::2] for y in (0, 1) for x in (0, 1)]
        there = [~np.isnan(corner) if math.isnan(nodata) else corner != nodata for corner in corners]
        if all(one.all() for one in there):
            mean = sum(corner.astype(np.float32) for corner in corners) / 4
        else:
            total = sum(np.where(one, corner, 0).astype(np.float32) for one, corner in zip(there, corners, strict=True))
            count = sum(one.astype(np.float32) for one in there)
            mean = np.where(count > 0, total / np.maximum(count, 1), nodata)
        into[...] = mean if math.isnan(nodata) else np.rint(mean)
    return found

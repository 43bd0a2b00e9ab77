"""Which tiles share ground: they must not be on both sides of a split."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from rasterio.warp import transform as reproject_points
from rasterio.warp import transform_bounds

from hybrid_patch.data.rasters.geotiff import Header

POINTS = 5
"""Points along each side of a tile that are looked for in another; between the outermost is all but a pixel's rim."""


def ground_groups(headers: Mapping[str, Header]) -> dict[str, str]:
    """The group of each tile: tiles that share ground, directly or by others between them, have the same.

    Tiles that do not say where on earth they are share no ground.
    """
    group = {tile: tile for tile in headers}

    def root(tile: str) -> str:
        while group[tile] != tile:
            tile = group[tile]
        return tile

    for a, b in _neighbours(headers):
        if root(a) != root(b) and _share_ground(headers[a], headers[b]):
            group[max(root(a), root(b))] = min(root(a), root(b))
    return {tile: root(tile) for tile in headers}


def _neighbours(headers: Mapping[str, Header]) -> Iterator[tuple[str, str]]:
    """Pairs of tiles whose boxes in longitude and latitude touch a common cell of a coarse net."""
    boxes = {tile: _box(header) for tile, header in headers.items()}
    located = {tile: box for tile, box in boxes.items() if box is not None}
    side = max((max(box[2] - box[0], box[3] - box[1]) for box in located.values()), default=1.0)
    cells: dict[tuple[int, int], list[str]] = defaultdict(list)
    for tile, box in located.items():
        west, south, east, north = (int(np.floor(edge / side)) for edge in box)
        for cell in itertools.product(range(west, east + 1), range(south, north + 1)):
            cells[cell].append(tile)
    for tiles in cells.values():
        yield from itertools.combinations(tiles, 2)


def _box(header: Header) -> tuple[float, float, float, float] | None:
    """West, south, east, north, degrees; None if the file does not tell."""
    if header.gsd() is None:
        return None
    corners = [header.position(x, y) for x in (0, header.width) for y in (0, header.height)]
    xs, ys = zip(*corners, strict=True)
    try:
        box: tuple[float, float, float, float] = transform_bounds(
            header.crs, "EPSG:4326", min(xs), min(ys), max(xs), max(ys)
        )
    except Exception:  # GDAL's exceptions are private to rasterio
        return None
    return box if np.isfinite(box).all() else None


def _share_ground(a: Header, b: Header) -> bool:
    return _has_points_in(a, b) or _has_points_in(b, a)


def _has_points_in(a: Header, b: Header) -> bool:
    """Whether a point of one tile, at least a pixel from its rim, is in the other."""
    columns, rows = (np.linspace(1, side - 1, POINTS) for side in (a.width, a.height))
    xs, ys = zip(*(a.position(column, row) for column in columns for row in rows), strict=True)
    if a.crs != b.crs:
        xs, ys = reproject_points(a.crs, b.crs, xs, ys)
    inverse = ~b.transform
    x, y = np.asarray(xs), np.asarray(ys)
    column, row = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
    return bool(((column > 0) & (column < b.width) & (row > 0) & (row < b.height)).any())

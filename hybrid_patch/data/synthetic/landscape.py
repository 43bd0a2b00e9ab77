"""The ground of the synthetic scenes: relief, fields, woods, rivers, roads and villages on a 10 m grid.

A pixel's class depends only on +, −, ×, ÷ and √ of uniform draws, which are exact on every machine; a sine is not.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from hybrid_patch.data.synthetic import spectra

Array = np.ndarray

BLOCK = 64
"""Mean distance of the centres of blocks of fields, pixels."""
DISTRICT = 128
"""A scene of this side has one village and one river; larger ones have as many per area."""
FREQUENCY = (0.24, 0.26, 0.15, 0.2, 0.15)
"""Of each of the crops, before a scene varies it."""


class Ground(NamedTuple):
    """The map of a scene."""

    objects: Int32[Array, "h w"]  # number of each pixel's object: a field, a wood, a roof, ...
    classes: Int[Array, " n"]  # of each object
    elevation: Float32[Array, "h w"]  # metres


def smooth_noise(rng: np.random.Generator, size: int, scale: int, octaves: int) -> Float[Array, "size size"]:
    """Fractal value noise between 0 and 1: random grids, interpolated; each octave half as wide and half as strong."""
    total = np.zeros((size, size))
    for octave in range(octaves):
        step = scale / 2**octave
        place = (np.arange(size) + rng.random() * step) / step
        cell = place.astype(np.int64)
        ease = _ease(place - cell)
        grid = rng.random((cell[-1] + 2, cell[-1] + 2))
        rows = grid[cell] + ease[:, None] * (grid[cell + 1] - grid[cell])
        total += (rows[:, cell] + ease * (rows[:, cell + 1] - rows[:, cell])) * 0.5**octave
    return total / (2 - 0.5 ** (octaves - 1))


def make_ground(rng: np.random.Generator, size: int) -> Ground:
    canvas = _Canvas(rng, size)
    relief = canvas.noise(70, 3)
    districts = max(round(size * size / DISTRICT**2), 1)
    rivers = [
        np.abs(_curve(canvas, rng.uniform(0.2, 0.8, 2) * size, bend=rng.uniform(4, 11), wave=rng.uniform(22, 40)))
        for _ in range(districts)
    ]
    to_river = np.minimum.reduce(rivers)
    elevation = 60 + 500 * rng.random() + rng.uniform(30, 160) * relief * np.minimum(0.4 + to_river / 60, 1)
    # Blocks are worked by different farms, so their fields differ in size and direction, and paths run in between.
    (blocks, neighbours), edge = _blocks(canvas)
    _fields(canvas, blocks)
    canvas.paint(to_river < 1 + 9 * canvas.noise(18, 2), spectra.GRASS)  # wet ground along the river
    _woods(canvas, relief, blocks)
    _edges(canvas, blocks, neighbours, edge)
    _waters(canvas, rivers, to_river)
    villages = [rng.uniform(0.2, 0.8, 2) * size for _ in range(districts)]
    for centre in villages:
        road = _curve(canvas, centre, bend=rng.uniform(2, 8), wave=rng.uniform(40, 80))
        canvas.paint(np.abs(road) < rng.uniform(0.75, 1.05), spectra.ROAD)
    for centre in villages:
        _village(canvas, centre, rng.uniform(15, 25))
    for _ in range(districts):
        _village(canvas, rng.random(2) * size, rng.uniform(3, 6))
    return Ground(canvas.objects, np.array(canvas.classes), np.rint(elevation).astype(np.float32))


class _Canvas:
    """The map while it is painted: later paint covers earlier."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, size
        self.y, self.x = np.arange(size)[:, None] + 0.5, np.arange(size)[None, :] + 0.5
        self.objects = np.zeros((size, size), np.int32)
        self.classes: list[int] = []

    def noise(self, scale: int, octaves: int) -> Float[Array, "h w"]:
        return smooth_noise(self.rng, self.size, scale, octaves)

    def paint(self, where: Bool[Array, "h w"], kind: int) -> None:
        self.objects[where] = len(self.classes)
        self.classes.append(kind)

    def paint_parts(self, where: Bool[Array, "h w"], parts: Int[Array, "h w"], kind: int | None = None) -> None:
        """A new object for each different part; crops of this scene if no class is given."""
        numbers, inverse = np.unique(parts[where], return_inverse=True)
        self.objects[where] = inverse.reshape(-1) + len(self.classes)
        self.classes.extend([kind] * len(numbers) if kind is not None else self._crops(len(numbers)))

    def _crops(self, count: int) -> list[int]:
        limits = np.cumsum(np.array(FREQUENCY) * self.rng.uniform(0.5, 1.5, len(FREQUENCY)))
        drawn = np.searchsorted(limits[:-1], self.rng.random(count) * limits[-1], side="right")
        return np.array(spectra.CROPS)[drawn].tolist()

    def shows(self, *kinds: int) -> Bool[Array, "h w"]:
        """Where one of these classes is on top."""
        return np.isin(np.array(self.classes), kinds)[self.objects]


def _ease(part: Float[Array, "..."]) -> Float[Array, "..."]:
    return part * part * (3 - 2 * part)


def _turned(
    y: Float[Array, "h 1"], x: Float[Array, "1 w"], slope: float | Float[Array, "h w"]
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Coordinates along and across a direction: a rational point of the circle, of parameter -1 to 1."""
    down, right = (1 - slope * slope) / (1 + slope * slope), 2 * slope / (1 + slope * slope)
    return y * down + x * right, x * down - y * right


def _curve(canvas: _Canvas, through: Float[Array, "2"], bend: float, wave: float) -> Float[Array, "h w"]:
    """Signed distance in pixels to a line across the scene that swings by `bend` every `wave` pixels."""
    along, across = _turned(canvas.y - through[0], canvas.x - through[1], canvas.rng.uniform(-1, 1))
    half = int(1.5 * canvas.size / wave) + 1
    knots = bend * canvas.rng.uniform(-1, 1, 2 * half + 2)
    knots[half] = 0
    place = along / wave + half
    cell = place.astype(np.int64)
    part = place - cell
    rise = knots[cell + 1] - knots[cell]
    slope = rise * 6 * part * (1 - part) / wave
    return (across - knots[cell] - rise * _ease(part)) / np.sqrt(1 + slope * slope)


def _blocks(canvas: _Canvas) -> tuple[Int[Array, "2 h w"], Float[Array, "h w"]]:
    """Voronoi cells of a jittered grid: the nearest two cells of each pixel, and its distance to their border."""
    side = -(-canvas.size // BLOCK) + 2
    jitter = canvas.rng.uniform(0.08, 0.92, (side, side, 2))
    row, column = (canvas.y / BLOCK).astype(np.int64) + 1, (canvas.x / BLOCK).astype(np.int64) + 1
    numbers, centres = [], []
    for i, j in itertools.product((-1, 0, 1), repeat=2):
        numbers.append((row + i) * side + column + j)
        shift = jitter[row + i, column + j]
        centres.append([(row + i - 1 + shift[..., 0]) * BLOCK, (column + j - 1 + shift[..., 1]) * BLOCK])
    centre, number = np.array(centres), np.array(numbers)  # [9, 2, H, W], [9, H, W]
    square = (canvas.y - centre[:, 0]) ** 2 + (canvas.x - centre[:, 1]) ** 2
    nearest = np.argsort(square, axis=0, kind="stable")[:2]
    first, second = np.take_along_axis(centre, nearest[:, None], 0)
    near, far = np.take_along_axis(square, nearest, 0)
    border = (far - near) / (2 * np.sqrt(((second - first) ** 2).sum(0)))
    return np.take_along_axis(number, nearest, 0), border


def _fields(canvas: _Canvas, blocks: Int[Array, "h w"]) -> None:
    """Parallel strips in each block, cut across here and there; narrow ones in some blocks, broad ones in others."""
    rng, count = canvas.rng, int(blocks.max()) + 1
    along, across = _turned(canvas.y, canvas.x, rng.uniform(-1, 1, count)[blocks])
    breadth = np.where(rng.random(count) < 0.12, rng.uniform(3, 6, count), rng.uniform(18, 36, count))[blocks]
    length = rng.uniform(40, 90, count)[blocks]
    strip = np.floor(across / breadth).astype(np.int64)
    shift = rng.random((count, 64))[blocks, strip % 64]
    piece = np.floor(along / length + shift).astype(np.int64)
    reach = 4 * canvas.size
    parts = (blocks * 2 * reach + strip + reach) * 2 * reach + piece + reach
    canvas.paint_parts(np.ones(blocks.shape, bool), parts)


def _woods(canvas: _Canvas, relief: Float[Array, "h w"], blocks: Int[Array, "h w"]) -> None:
    """Woods on the heights, conifers in parts of them, and single trees on the grassland."""
    height = relief + 0.8 * canvas.noise(44, 3)
    wood = height > np.quantile(height, 1 - canvas.rng.uniform(0.18, 0.4))
    conifers = canvas.noise(34, 2) > canvas.rng.uniform(0.42, 0.58)
    canvas.paint_parts(wood & ~conifers, blocks, spectra.BROADLEAF)
    canvas.paint_parts(wood & conifers, blocks, spectra.CONIFER)
    trees = canvas.rng.random((canvas.size, canvas.size)) < 0.002
    canvas.paint(trees & canvas.shows(spectra.GRASS), spectra.BROADLEAF)


def _edges(
    canvas: _Canvas, blocks: Int[Array, "h w"], neighbours: Int[Array, "h w"], edge: Float[Array, "h w"]
) -> None:
    """Between blocks run farm tracks or hedges, one pixel wide, or nothing does."""
    low, high = np.minimum(blocks, neighbours), np.maximum(blocks, neighbours)
    line = (edge < 1.1) & (blocks == low)  # on one side of the border, so one pixel wide
    chance = canvas.rng.random((int(high.max()) + 1,) * 2)[low, high]
    canvas.paint(line & (chance > 0.8), spectra.BROADLEAF)
    canvas.paint(line & (chance < 0.5), spectra.ROAD)


def _waters(canvas: _Canvas, rivers: list[Float[Array, "h w"]], to_river: Float[Array, "h w"]) -> None:
    """Rivers one or two pixels wide with trees along them, and now and then a lake."""
    rng = canvas.rng
    canvas.paint((to_river < 2.6) & (canvas.noise(9, 2) > 0.56), spectra.BROADLEAF)
    for river in rivers:
        canvas.paint(river < rng.uniform(0.55, 1.05), spectra.WATER)
        if rng.random() < 0.5:
            y, x = rng.random(2) * canvas.size
            radius = rng.uniform(6, 15)
            shore = radius * (0.5 + canvas.noise(10, 2))
            canvas.paint((canvas.y - y) ** 2 + (canvas.x - x) ** 2 < shore * shore, spectra.WATER)


def _village(canvas: _Canvas, centre: Float[Array, "2"], radius: float) -> None:
    """Streets a pixel wide, buildings of one to three pixels a side, and trees in the gardens between."""
    rng, y, x = canvas.rng, canvas.y - centre[0], canvas.x - centre[1]
    reach = radius * (0.6 + 0.8 * canvas.noise(12, 2))
    inside = (y * y + x * x < reach * reach) & ~canvas.shows(spectra.WATER, spectra.ROAD)
    along, across = _turned(y, x, rng.uniform(-1, 1))
    breadth, length = rng.uniform(8, 11), rng.uniform(14, 20)
    u, v = across / breadth, along / length
    canvas.paint_parts(inside, (np.floor(u) * 1000 + np.floor(v)).astype(np.int64), spectra.GRASS)
    canvas.paint(inside & (rng.random(inside.shape) < 0.12), spectra.BROADLEAF)
    if radius > 8:
        canvas.paint(inside & (((u - np.floor(u)) * breadth < 1) | ((v - np.floor(v)) * length < 1)), spectra.ROAD)
    free = inside & ~canvas.shows(spectra.ROAD)
    count = round(radius * radius)
    corners = np.floor(centre + rng.uniform(-1.3, 1.3, (count, 2)) * radius).astype(np.int64)
    sides = 1 + np.floor(3 * rng.random((count, 2)) * (0.4 + 0.6 * rng.random((count, 1)))).astype(np.int64)
    for (top, left), (bottom, right) in zip(corners.tolist(), (corners + sides).tolist(), strict=True):
        plot = (slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0)))
        if free[plot].any():
            area = np.zeros_like(free)
            area[plot] = free[plot]
            canvas.paint(area, spectra.BUILDING)
            # A gap of one pixel to the next building.
            free[max(top - 1, 0) : max(bottom + 1, 0), max(left - 1, 0) : max(right + 1, 0)] = False

"""The ground of the synthetic scenes: relief, fields, woods, rivers, roads and villages on a 10 m grid.

Which class a pixel has is decided by +, −, ×, ÷ and √ on uniform draws, which are exact everywhere: no sine whose last
bit depends on the machine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from hybrid_patch.data.synthetic.spectra import (
    BEET,
    BROADLEAF,
    BUILDING,
    CONIFER,
    CROPS,
    GRASS,
    MAIZE,
    RAPESEED,
    ROAD,
    WATER,
    WHEAT,
)

Array = np.ndarray

BLOCK = 64
"""Mean distance of the centres of blocks of fields, pixels."""
DISTRICT = 128
"""A scene of this side has one village and one river; larger ones have as many per area."""
FREQUENCY = {GRASS: 0.24, WHEAT: 0.26, RAPESEED: 0.15, MAIZE: 0.2, BEET: 0.15}
"""Of the crops, before each scene and block makes its own choice."""


@dataclass(frozen=True)
class Ground:
    """The map of a scene.

    Attributes:
        objects: `[H, W]` number of the object (a field, a wood, a roof, ...) of each pixel.
        classes: `[N]` class of each object.
        elevation: `[H, W]` metres.
    """

    objects: Int32[Array, "h w"]
    classes: Int[Array, " n"]
    elevation: Float32[Array, "h w"]


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
    """A square piece of country of `size` pixels a side."""
    canvas = _Canvas(size)
    relief = smooth_noise(rng, size, 70, 3)
    districts = max(round(size * size / DISTRICT**2), 1)
    rivers = [
        np.abs(_curve(rng, canvas, rng.uniform(0.2, 0.8, 2) * size, bend=rng.uniform(4, 11), wave=rng.uniform(22, 40)))
        for _ in range(districts)
    ]
    to_river = np.minimum.reduce(rivers)
    elevation = 60 + 500 * rng.random() + rng.uniform(30, 160) * relief * np.minimum(0.4 + to_river / 60, 1)
    # Blocks are worked by different farms, so their fields differ in size and direction, and paths run in between.
    blocks, neighbours, edge = _blocks(rng, canvas)
    _fields(rng, canvas, blocks)
    _meadows(rng, canvas, to_river)
    _woods(rng, canvas, relief, blocks)
    _edges(rng, canvas, blocks, neighbours, edge)
    _waters(rng, canvas, rivers, to_river)
    villages = [rng.uniform(0.2, 0.8, 2) * size for _ in range(districts)]
    for centre in villages:
        road = _curve(rng, canvas, centre, bend=rng.uniform(2, 8), wave=rng.uniform(40, 80))
        canvas.paint(np.abs(road) < rng.uniform(0.75, 1.05), ROAD)
    for centre in villages:
        _village(rng, canvas, centre, rng.uniform(15, 25))
    for _ in range(districts):
        _village(rng, canvas, rng.random(2) * size, rng.uniform(3, 6))
    return Ground(canvas.objects, np.array(canvas.classes), np.rint(elevation).astype(np.float32))


class _Canvas:
    """The map while it is painted: later paint covers earlier."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.y, self.x = np.arange(size)[:, None] + 0.5, np.arange(size)[None, :] + 0.5
        self.objects = np.zeros((size, size), np.int32)
        self.classes: list[int] = []

    def paint(self, where: Bool[Array, "h w"], kind: int) -> None:
        """One new object."""
        self.objects[where] = len(self.classes)
        self.classes.append(kind)

    def paint_parts(
        self, where: Bool[Array, "h w"], parts: Int[Array, "h w"], choose: Callable[[int], Int[Array, " n"]]
    ) -> None:
        """A new object for each different part; `choose` gives the classes of n of them."""
        numbers, inverse = np.unique(parts[where], return_inverse=True)
        self.objects[where] = inverse.reshape(-1) + len(self.classes)
        self.classes.extend(choose(len(numbers)).tolist())

    def shows(self, *kinds: int) -> Bool[Array, "h w"]:
        """Where one of these classes is on top."""
        return np.isin(np.array(self.classes), kinds)[self.objects]


def _ease(part: Float[Array, "..."]) -> Float[Array, "..."]:
    return part * part * (3 - 2 * part)


def _direction(rng: np.random.Generator) -> tuple[float, float]:
    """A unit vector, from the rational points of the circle."""
    slope = rng.uniform(-1, 1)
    return (1 - slope * slope) / (1 + slope * slope), 2 * slope / (1 + slope * slope)


def _curve(
    rng: np.random.Generator, canvas: _Canvas, through: Float[Array, "2"], bend: float, wave: float
) -> Float[Array, "h w"]:
    """Signed distance in pixels to a line across the scene that swings by `bend` every `wave` pixels."""
    down, right = _direction(rng)
    along = (canvas.y - through[0]) * down + (canvas.x - through[1]) * right
    across = (canvas.x - through[1]) * down - (canvas.y - through[0]) * right
    half = int(1.5 * canvas.size / wave) + 1
    knots = bend * rng.uniform(-1, 1, 2 * half + 2)
    knots[half] = 0
    place = along / wave + half
    cell = place.astype(np.int64)
    part = place - cell
    rise = knots[cell + 1] - knots[cell]
    slope = rise * 6 * part * (1 - part) / wave
    return (across - knots[cell] - rise * _ease(part)) / np.sqrt(1 + slope * slope)


def _blocks(
    rng: np.random.Generator, canvas: _Canvas
) -> tuple[Int[Array, "h w"], Int[Array, "h w"], Float[Array, "h w"]]:
    """Voronoi cells of a jittered grid: the cell of each pixel, the next one, and the distance to their border."""
    side = -(-canvas.size // BLOCK) + 2
    jitter = rng.uniform(0.08, 0.92, (side, side, 2))
    row, column = (canvas.y / BLOCK).astype(np.int64) + 1, (canvas.x / BLOCK).astype(np.int64) + 1
    numbers, squares, centres = [], [], []
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            y = (row + i - 1 + jitter[row + i, column + j, 0]) * BLOCK
            x = (column + j - 1 + jitter[row + i, column + j, 1]) * BLOCK
            numbers.append((row + i) * side + column + j)
            squares.append((canvas.y - y) ** 2 + (canvas.x - x) ** 2)
            centres.append(np.stack([y, x]))
    square = np.stack(squares)
    first = square.argmin(0)[None]
    nearest = np.take_along_axis(square, first, 0)[0]
    np.put_along_axis(square, first, np.inf, 0)
    second = square.argmin(0)[None]
    number = np.stack(numbers)
    gap = np.take_along_axis(np.stack(centres), second[:, None], 0) - np.take_along_axis(
        np.stack(centres), first[:, None], 0
    )
    distance = np.sqrt((gap[0] ** 2).sum(0))
    border = (np.take_along_axis(square, second, 0)[0] - nearest) / (2 * distance)
    return np.take_along_axis(number, first, 0)[0], np.take_along_axis(number, second, 0)[0], border


def _fields(rng: np.random.Generator, canvas: _Canvas, blocks: Int[Array, "h w"]) -> None:
    """Parallel strips in each block, cut across here and there; narrow ones in some blocks, broad ones in others."""
    count = int(blocks.max()) + 1
    slope = rng.uniform(-1, 1, count)[blocks]
    down, right = (1 - slope * slope) / (1 + slope * slope), 2 * slope / (1 + slope * slope)
    breadth = np.where(rng.random(count) < 0.12, rng.uniform(3, 6, count), rng.uniform(18, 36, count))[blocks]
    length = rng.uniform(40, 90, count)[blocks]
    strip = np.floor((canvas.x * down - canvas.y * right) / breadth).astype(np.int64)
    shift = rng.random((count, 64))[blocks, strip % 64]
    piece = np.floor((canvas.y * down + canvas.x * right) / length + shift).astype(np.int64)
    reach = 4 * canvas.size
    parts = (blocks * 2 * reach + strip + reach) * 2 * reach + piece + reach
    chances = np.array([FREQUENCY[crop] for crop in CROPS]) * rng.uniform(0.5, 1.5, len(CROPS))
    everywhere = np.ones(blocks.shape, bool)
    canvas.paint_parts(everywhere, parts, lambda n: _draw(rng, CROPS, chances, n))


def _draw(
    rng: np.random.Generator, kinds: tuple[int, ...], chances: Float[Array, " k"], count: int
) -> Int[Array, " n"]:
    """Draw `count` of these classes, in proportion to their chances."""
    limits = np.cumsum(chances)
    return np.array(kinds)[np.searchsorted(limits[:-1], rng.random(count) * limits[-1], side="right")]


def _meadows(rng: np.random.Generator, canvas: _Canvas, to_river: Float[Array, "h w"]) -> None:
    """Wet ground along the river is grassland."""
    wet = to_river < 1 + 9 * smooth_noise(rng, canvas.size, 18, 2)
    canvas.paint(wet, GRASS)


def _woods(rng: np.random.Generator, canvas: _Canvas, relief: Float[Array, "h w"], blocks: Int[Array, "h w"]) -> None:
    """Woods on the heights, conifers in parts of them, and single trees on the grassland."""
    height = relief + 0.8 * smooth_noise(rng, canvas.size, 44, 3)
    wood = height > np.quantile(height, 1 - rng.uniform(0.18, 0.4))
    conifers = smooth_noise(rng, canvas.size, 34, 2) > rng.uniform(0.42, 0.58)
    canvas.paint_parts(wood & ~conifers, blocks, lambda n: np.full(n, BROADLEAF))
    canvas.paint_parts(wood & conifers, blocks, lambda n: np.full(n, CONIFER))
    trees = rng.random((canvas.size, canvas.size)) < 0.002
    canvas.paint(trees & canvas.shows(GRASS), BROADLEAF)


def _edges(
    rng: np.random.Generator,
    canvas: _Canvas,
    blocks: Int[Array, "h w"],
    neighbours: Int[Array, "h w"],
    edge: Float[Array, "h w"],
) -> None:
    """Between blocks run farm tracks or hedges, one pixel wide, or nothing does."""
    low, high = np.minimum(blocks, neighbours), np.maximum(blocks, neighbours)
    # On one side of the border only, which makes a line of one pixel.
    line = (edge < 1.1) & (blocks == low)
    count = int(high.max()) + 1
    chance = rng.random((count, count))[low, high]
    canvas.paint(line & (chance > 0.8), BROADLEAF)
    canvas.paint(line & (chance < 0.5), ROAD)


def _waters(
    rng: np.random.Generator, canvas: _Canvas, rivers: list[Float[Array, "h w"]], to_river: Float[Array, "h w"]
) -> None:
    """Rivers one or two pixels wide with trees along them, and now and then a lake."""
    trees = (to_river < 2.6) & (smooth_noise(rng, canvas.size, 9, 2) > 0.56)
    canvas.paint(trees, BROADLEAF)
    for river in rivers:
        canvas.paint(river < rng.uniform(0.55, 1.05), WATER)
        if rng.random() < 0.5:
            y, x = rng.random(2) * canvas.size
            radius = rng.uniform(6, 15)
            square = (canvas.y - y) ** 2 + (canvas.x - x) ** 2
            shore = radius * (0.5 + smooth_noise(rng, canvas.size, 10, 2))
            canvas.paint(square < shore * shore, WATER)


def _village(rng: np.random.Generator, canvas: _Canvas, centre: Float[Array, "2"], radius: float) -> None:
    """Streets a pixel wide, buildings of one to three pixels a side, and trees in the gardens between."""
    y, x = canvas.y - centre[0], canvas.x - centre[1]
    reach = radius * (0.6 + 0.8 * smooth_noise(rng, canvas.size, 12, 2))
    inside = (y * y + x * x < reach * reach) & ~canvas.shows(WATER, ROAD)
    down, right = _direction(rng)
    breadth, length = rng.uniform(8, 11), rng.uniform(14, 20)
    u, v = (x * down - y * right) / breadth, (y * down + x * right) / length
    gardens = (np.floor(u) * 1000 + np.floor(v)).astype(np.int64)
    canvas.paint_parts(inside, gardens, lambda n: np.full(n, GRASS))
    canvas.paint(inside & (rng.random(inside.shape) < 0.12), BROADLEAF)
    if radius > 8:
        canvas.paint(inside & (((u - np.floor(u)) * breadth < 1) | ((v - np.floor(v)) * length < 1)), ROAD)
    free = inside & ~canvas.shows(ROAD)
    for top, left, height, width in _plots(rng, centre, radius):
        plot = (slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0)))
        if free[plot].any():
            area = np.zeros_like(free)
            area[plot] = free[plot]
            canvas.paint(area, BUILDING)
            # A gap of one pixel to the next building.
            free[max(top - 1, 0) : max(top + height + 1, 0), max(left - 1, 0) : max(left + width + 1, 0)] = False


def _plots(rng: np.random.Generator, centre: Float[Array, "2"], radius: float) -> list[list[int]]:
    """Where buildings are tried: top, left, height and width, over the square around a village."""
    count = round(radius * radius)
    corners = np.floor(centre + rng.uniform(-1.3, 1.3, (count, 2)) * radius).astype(np.int64)
    sides = 1 + np.floor(3 * rng.random((count, 2)) * (0.4 + 0.6 * rng.random((count, 1)))).astype(np.int64)
    return np.concatenate([corners, sides], axis=1).tolist()

"""A map, part by part: windows are read ahead, embedded by several threads, blended, and written behind."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import psutil
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from hybrid_patch.data.crops import Crop
from hybrid_patch.data.source import Window
from hybrid_patch.embed.geotiff import NODATA, MapFile
from hybrid_patch.embed.reduction import LARGEST, Basis
from hybrid_patch.embed.scene import SceneReader
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.embed.windows import Tiling, blended
from hybrid_patch.embed.workers import workers

Array = np.ndarray
Write = Callable[[Window, Shaped[Array, "k h w"]], None]

AHEAD = 2
"""Rows of windows that are read and embedded before they are asked for."""
MOST_WINDOWS = {"cpu": 16, "cuda": 256}
"""Windows of a batch; more of them are not faster."""
CPU_BYTES = 512 * 2**20
"""The most that a CPU's batches take, however much memory is free."""


class Stopped(Exception):
    """Somebody asked the work to stop; parts that are done stay."""


class Row(NamedTuple):
    """A row of windows on its way.

    Attributes:
        top: their upper edge.
        seen: where something was measured, `[side, columns]` of the map.
        windows: embeddings by the left edge of the first window of a batch.
    """

    top: int
    seen: Bool[Tensor, "side columns"]
    windows: dict[int, "Future[Tensor]"]


class Pipeline:
    """A scene through a model into parts of a map.

    Args:
        tiling: windows, in pixels of the map.
        unit: pixels of the scene, along each side, to a pixel of the map.
        batch: windows that are embedded together.
    """

    def __init__(
        self,
        model: TrainedModel,
        scene: SceneReader,
        basis: Basis,
        file: MapFile,
        tiling: Tiling,
        unit: int,
        batch: int,
    ) -> None:
        self.model, self.scene, self.file = model, scene, file
        self.tiling, self.unit, self.batch = tiling, unit, batch
        self.projection = basis.projection(file.dtype == "int8", model.device)
        self.seconds = {"reading": 0.0, "computing": 0.0, "blending": 0.0, "writing": 0.0}

    def run(
        self,
        strips: Sequence[Sequence[Window]],
        pending: Collection[Window],
        write: Write,
        report: Callable[[int], None],
        stop: object,
    ) -> None:
        """Make the parts that are pending, and hand each to `write`, in a thread of its own.

        `report` is told how many pixels have been made since it was told last.

        Raises Stopped if `stop` has become true, and what reading and writing raise.
        """
        written: Future[None] | None = None
        with workers(self.model.device) as self._workers:
            self._reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
            try:
                for parts in strips:
                    for run in _runs(parts, pending):
                        for part, values in self._parts(run, report, stop):
                            if written is not None:
                                written.result()
                            written = writer.submit(self._write, write, part, values)
                if written is not None:
                    written.result()
            finally:
                self._reader.shutdown(cancel_futures=True)
                writer.shutdown()

    def _parts(
        self, parts: Sequence[Window], report: Callable[[int], None], stop: object
    ) -> Iterator[tuple[Window, Shaped[Array, "k h w"]]]:
        """Parts that lie one below the other, without a gap."""
        top, columns = parts[0].top, (parts[0].left, parts[0].left + parts[0].width)
        end = parts[-1].top + parts[-1].height
        rows = self._rows([t for t in self.tiling.tops(self.file.height, top) if t < end], columns)
        row: Row | None = None
        began = time.perf_counter()

        def embed(at: int, lefts: list[int]) -> Float[Tensor, "n side side k"]:
            nonlocal row, began
            waits = time.perf_counter()
            if row is None or row.top != at:
                row = next(rows)
            windows = row.windows.pop(lefts[0]).result()
            began += time.perf_counter() - waits
            return windows

        left = list(parts)
        values = self._empty(left[0])
        for band in blended(self.file.height, self.file.width, self.tiling, embed, self.batch, top, columns):
            assert row is not None
            numbers = self._numbers(band, row.seen[top - row.top :][: len(band)])
            while len(numbers) and left:
                place = top - left[0].top
                taken = min(len(numbers), left[0].height - place)
                values[:, place : place + taken] = numbers[:taken].permute(2, 0, 1)
                numbers, top = numbers[taken:], top + taken
                if place + taken == left[0].height:
                    self.seconds["blending"] += time.perf_counter() - began
                    yield left.pop(0), values.numpy()
                    began = time.perf_counter()
                    if left:
                        values = self._empty(left[0])
            report(len(band) * band.shape[1])
            if stop:
                raise Stopped
            if not left:
                return

    def _rows(self, tops: Sequence[int], columns: tuple[int, int]) -> Iterator[Row]:
        ahead: deque[Future[Row]] = deque()
        for top in tops:
            ahead.append(self._reader.submit(self._read, top, columns))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _read(self, top: int, columns: tuple[int, int]) -> Row:
        """Read a row of windows and have them embedded."""
        began = time.perf_counter()
        lefts, side = self.tiling.lefts(self.file.width, *columns), self.tiling.side
        origin, end = lefts[0], lefts[-1] + side
        place = Window(*(self.unit * x for x in (top, origin, side, end - origin)))
        crop = self.scene.read(place)
        seen = np.any(crop.any_valid(list(crop.valid)).reshape(side, self.unit, end - origin, self.unit), axis=(1, 3))
        groups = [lefts[start : start + self.batch] for start in range(0, len(lefts), self.batch)]
        windows = {
            group[0]: self._workers.submit(self._embed, crop, [left - origin for left in group]) for group in groups
        }
        self.seconds["reading"] += time.perf_counter() - began
        return Row(top, torch.from_numpy(seen)[:, columns[0] - origin : columns[1] - origin], windows)

    def _embed(self, crop: Crop, lefts: Sequence[int]) -> Float[Tensor, "n side side k"]:
        """Windows of a row of them, as rows of the map's numbers; zeros if there is nothing in any of them."""
        began = time.perf_counter()
        side = self.tiling.side * self.unit
        crops = [crop.window(Window(0, left * self.unit, side, side)) for left in lefts]
        if any(there.any() for one in crops for there in one.valid.values()):
            found = self.model.embed_crops(
                crops, projection=self.projection, absent=self.scene.absent, repeat=self.unit == 1
            )
        else:
            found = torch.zeros(len(lefts), self.tiling.side, self.tiling.side, len(self.file.descriptions))
        found = found.float().cpu()
        self.seconds["computing"] += time.perf_counter() - began
        return found

    def _numbers(self, band: Float[Tensor, "h w k"], seen: Bool[Tensor, "h w"]) -> Shaped[Tensor, "h w k"]:
        """What is written of a band of rows, which is changed."""
        if self.file.dtype == "int8":
            numbers = band.round_().clamp_(-LARGEST, LARGEST).to(torch.int8)
        else:
            numbers = band.half().float() if self.file.dtype == "float16" else band
        if not bool(seen.all()):
            numbers[~seen] = NODATA[self.file.dtype]
        return numbers

    def _empty(self, part: Window) -> Shaped[Tensor, "k h w"]:
        shape = (len(self.file.descriptions), part.height, part.width)
        return torch.empty(shape, dtype=torch.int8 if self.file.dtype == "int8" else torch.float32)

    def _write(self, write: Write, part: Window, values: Shaped[Array, "k h w"]) -> None:
        began = time.perf_counter()
        write(part, values)
        self.seconds["writing"] += time.perf_counter() - began


def batch_from_memory(model: TrainedModel, scene: SceneReader, numbers: int) -> int:
    """How many windows to embed together: what free memory holds, up to where more are no faster.

    Args:
        numbers: kept per pixel.
    """
    side, size = model.side, model.config.model.encoder
    times = {name: len(scene.timestamps) if m.temporal else 1 for name, m in scene.modalities.items()}
    tokens = sum(times[name] * len(m.band_sets) for name, m in scene.modalities.items())
    tokens *= (side // model.sizes.processing) ** 2
    channels = sum(times[name] * m.channels for name, m in scene.modalities.items())
    hidden = size.width * (8 + 2 * size.mlp_ratio)  # what a block holds of a token: norms, query, key, value, MLP
    attention = size.heads * tokens  # where a mask of missing tokens keeps attention from its kernel without a matrix
    window = 4 * (tokens * (hidden + attention) + side**2 * (4 * numbers + 4 * channels))
    if model.device.type == "cuda":
        free, most = torch.cuda.mem_get_info(model.device)[0] / 2, MOST_WINDOWS["cuda"]
    else:
        free = min(psutil.virtual_memory().available / 4, CPU_BYTES) / torch.get_num_threads()
        most = MOST_WINDOWS["cpu"]
    return int(min(max(free // window, 1), most))


def _runs(parts: Sequence[Window], pending: Collection[Window]) -> Iterator[list[Window]]:
    """Pending parts of a strip that follow each other without a gap."""
    run: list[Window] = []
    for part in parts:
        if part in pending:
            run.append(part)
        elif run:
            yield run
            run = []
    if run:
        yield run

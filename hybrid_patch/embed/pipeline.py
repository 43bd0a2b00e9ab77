"""Embed a scene part by part: windows are read ahead, embedded in threads, blended, and written in the background."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from typing import NamedTuple

import numpy as np
import psutil
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from hybrid_patch.data.crops import Crop
from hybrid_patch.data.source import Window
from hybrid_patch.embed.geotiff import NODATA, MapFile
from hybrid_patch.embed.reduction import INT8_MAX, Basis
from hybrid_patch.embed.scene import SceneReader
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.embed.windows import Tiling, blended
from hybrid_patch.errors import InputError

Array = np.ndarray
Write = Callable[[Window, Shaped[Array, "k h w"]], None]

ROWS_AHEAD = 2
"""Rows of windows that are read and embedded before they are needed."""
MAX_WINDOWS = {"cpu": 16, "cuda": 256}
"""Windows in a batch; larger batches are not faster."""
MAX_CPU_BYTES = 512 * 2**20
"""Memory of a CPU's batches, however much is free."""

SAMPLE_SHARE, MIN_SAMPLE_WINDOWS, MAX_SAMPLE_WINDOWS = 1 / 8, 8, 64
"""The share of a scene's windows that is sampled, and the smallest and largest number of them."""
SAMPLE_PIXELS, SAMPLE_BATCH = 32_768, 4
"""Pixels of a sample, and its windows that are embedded together."""


class Stopped(Exception):
    """The user asked to stop; finished parts are kept."""


class Row(NamedTuple):
    """A row of windows that is being embedded.

    Attributes:
        top: their upper edge.
        valid_mask: where the scene has data, `[side, columns]` of the map.
        windows: embeddings by the left edge of the first window of a batch.
    """

    top: int
    valid_mask: Bool[Tensor, "side columns"]
    windows: dict[int, "Future[Tensor]"]


class Pipeline:
    """Embeds a scene into parts of a map.

    Args:
        tiling: windows, in pixels of the map.
        unit: pixels of the scene, along each side, per pixel of the map.
        batch: windows that are embedded together.

    Attributes:
        seconds: how long each kind of work took; they overlap.
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
        """Embed the pending parts, and call `write` with each, in a thread of its own.

        `report` is called with the number of pixels embedded since the last call.

        Raises Stopped if `stop` has become true, and whatever reading and writing raise.
        """
        written: Future[None] | None = None
        with embedding_threads(self.model.device) as self._embedders:
            self._reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
            try:
                for strip in strips:
                    for is_pending, run in groupby(strip, lambda part: part in pending):
                        for part, values in self._parts(list(run), report, stop) if is_pending else ():
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
        """Embed parts that lie one below the other, without a gap."""
        top, columns = parts[0].top, (parts[0].left, parts[0].left + parts[0].width)
        end = parts[-1].top + parts[-1].height
        rows = self._rows([t for t in self.tiling.tops(self.file.height, top) if t < end], columns)
        row: Row | None = None
        began = time.perf_counter()

        def embed(at: int, lefts: list[int]) -> Float[Tensor, "n side side k"]:
            nonlocal row, began
            wait_began = time.perf_counter()
            if row is None or row.top != at:
                row = next(rows)
            windows = row.windows.pop(lefts[0]).result()
            began += time.perf_counter() - wait_began
            return windows

        left = list(parts)
        values = self._empty(left[0])
        for band in blended(self.file.height, self.file.width, self.tiling, embed, self.batch, top, columns):
            assert row is not None
            numbers = self._numbers(band, row.valid_mask[top - row.top :][: len(band)])
            while len(numbers) and left:
                start = top - left[0].top
                count = min(len(numbers), left[0].height - start)
                values[:, start : start + count] = numbers[:count].permute(2, 0, 1)
                numbers, top = numbers[count:], top + count
                if start + count == left[0].height:
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
            if len(ahead) > ROWS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _read(self, top: int, columns: tuple[int, int]) -> Row:
        """Read a row of windows and queue them to be embedded."""
        began = time.perf_counter()
        lefts, side = self.tiling.lefts(self.file.width, *columns), self.tiling.side
        origin, end = lefts[0], lefts[-1] + side
        crop = self.scene.read(Window(*(self.unit * x for x in (top, origin, side, end - origin))))
        valid = crop.any_valid(list(crop.valid)).reshape(side, self.unit, end - origin, self.unit).any((1, 3))
        batches = [lefts[start : start + self.batch] for start in range(0, len(lefts), self.batch)]
        windows = {
            batch[0]: self._embedders.submit(self._embed, crop, [left - origin for left in batch]) for batch in batches
        }
        self.seconds["reading"] += time.perf_counter() - began
        return Row(top, torch.from_numpy(valid)[:, columns[0] - origin : columns[1] - origin], windows)

    def _embed(self, crop: Crop, lefts: Sequence[int]) -> Float[Tensor, "n side side k"]:
        """Embed windows of a row of them, as the map's numbers; zeros if none has any data."""
        began = time.perf_counter()
        side = self.tiling.side * self.unit
        crops = [crop.window(Window(0, left * self.unit, side, side)) for left in lefts]
        if any(valid_mask.any() for window in crops for valid_mask in window.valid.values()):
            embedding = self.model.embed_crops(
                crops, projection=self.projection, absent=self.scene.absent, repeat=self.unit == 1
            )
        else:
            embedding = torch.zeros(len(lefts), self.tiling.side, self.tiling.side, len(self.file.descriptions))
        embedding = embedding.float().cpu()
        self.seconds["computing"] += time.perf_counter() - began
        return embedding

    def _numbers(self, band: Float[Tensor, "h w k"], valid_mask: Bool[Tensor, "h w"]) -> Shaped[Tensor, "h w k"]:
        """A band of rows as it is written, in place."""
        if self.file.dtype == "int8":
            numbers = band.round_().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8)
        else:
            numbers = band.half().float() if self.file.dtype == "float16" else band
        if not bool(valid_mask.all()):
            numbers[~valid_mask] = NODATA[self.file.dtype]
        return numbers

    def _empty(self, part: Window) -> Shaped[Tensor, "k h w"]:
        shape = (len(self.file.descriptions), part.height, part.width)
        return torch.empty(shape, dtype=torch.int8 if self.file.dtype == "int8" else torch.float32)

    def _write(self, write: Write, part: Window, values: Shaped[Array, "k h w"]) -> None:
        began = time.perf_counter()
        write(part, values)
        self.seconds["writing"] += time.perf_counter() - began


@contextmanager
def embedding_threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Threads to embed batches of windows in. Meanwhile each operation of torch runs in one thread.

    On a CPU, as many as torch would use: operations on a few windows are too short to be worth sharing between threads,
    least of all on a machine that does other work too. On a GPU, one.
    """
    threads = torch.get_num_threads()
    count = threads if device.type == "cpu" else 1
    pool = ThreadPoolExecutor(count, "embed", initializer=torch.set_num_threads, initargs=(1,))
    torch.set_num_threads(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def sample_scene(model: TrainedModel, scene: SceneReader) -> tuple[Float[Array, "n d"], Float[Array, "m side side d"]]:
    """Embeddings of random pixels in windows spread over the scene, and of a few whole windows.

    Raises InputError if the scene has no data at all.
    """
    rng = np.random.default_rng(0)
    side = model.side
    available = -(-scene.height // side) * -(-scene.width // side)
    count = min(max(round(available * SAMPLE_SHARE), min(MIN_SAMPLE_WINDOWS, available)), MAX_SAMPLE_WINDOWS)
    pixels: list[Float[Array, "n d"]] = []
    whole: list[Float[Array, "m side side d"]] = []

    def embed(crops: Sequence[Crop]) -> Float[Array, "m side side d"]:
        return model.embed_crops(crops, absent=scene.absent).float().cpu().numpy()

    with embedding_threads(model.device) as pool:
        windows = list(scene.windows_with_data(side, count))
        batches = [windows[start : start + SAMPLE_BATCH] for start in range(0, len(windows), SAMPLE_BATCH)]
        for crops, embeddings in zip(batches, pool.map(embed, batches), strict=True):
            whole = whole or [embeddings]
            for crop, embedding in zip(crops, embeddings, strict=True):
                valid = np.flatnonzero(crop.any_valid(list(crop.valid)))
                drawn = rng.permutation(valid)[: max(SAMPLE_PIXELS // count * len(valid) // side**2, 1)]
                pixels.append(embedding.reshape(-1, embedding.shape[-1])[drawn])
    if not pixels:
        raise InputError(f"{scene.grid.path}: nothing but 'no data' in the whole scene")
    return np.concatenate(pixels), whole[0]


def batch_from_memory(model: TrainedModel, scene: SceneReader, dims: int) -> int:
    """How many windows of `dims` numbers per pixel to embed together: as many as free memory holds, up to a maximum."""
    side, size = model.side, model.config.model.encoder
    times = {name: len(scene.timestamps) if m.temporal else 1 for name, m in scene.modalities.items()}
    tokens = sum(times[name] * len(m.band_sets) for name, m in scene.modalities.items())
    tokens *= (side // model.sizes.processing) ** 2
    channels = sum(times[name] * m.channels for name, m in scene.modalities.items())
    hidden = size.width * (8 + 2 * size.mlp_ratio)  # of a token in a block: norms, query, key, value, MLP
    attention = size.heads * tokens  # a mask of missing tokens rules out the attention kernels that need no matrix
    window = 4 * (tokens * (hidden + attention) + side**2 * (4 * dims + 4 * channels))
    if model.device.type == "cuda":
        free, max_windows = torch.cuda.mem_get_info(model.device)[0] / 2, MAX_WINDOWS["cuda"]
    else:
        free = min(psutil.virtual_memory().available / 4, MAX_CPU_BYTES) / torch.get_num_threads()
        max_windows = MAX_WINDOWS["cpu"]
    return int(min(max(free // window, 1), max_windows))

"""Embed a scene part by part: windows are read ahead, embedded in threads, blended, and written in the background."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import psutil
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from hybrid_patch.data.crops import Crop
from hybrid_patch.data.source import Window
from hybrid_patch.embed.geotiff import NODATA, MapFile
from hybrid_patch.embed.reduction import Basis, rounded
from hybrid_patch.embed.scene import SceneReader
from hybrid_patch.embed.threads import ahead, embedding_threads
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.embed.windows import Blender, Tiling
from hybrid_patch.errors import InputError
from hybrid_patch.model.pooling import Projection
from hybrid_patch.runs.stop_signal import Stopped

Array = np.ndarray
Part = tuple[Window, Shaped[Array, "k h w"]]

Row = tuple[int, Bool[Tensor, "side columns"], list["Future[Tensor]"]]
"""A row of windows being embedded: its upper edge, where the map has data, and batches from left to right."""

ROWS_AHEAD = 2
"""Rows of windows that are read and embedded before they are needed."""
MAX_WINDOWS = {"cpu": 16, "cuda": 256}
"""Windows in a batch; larger batches are not faster."""
MAX_CPU_BYTES = 512 * 2**20
"""Memory of a CPU's batches, however much is free."""
SAMPLE_SHARE, MIN_SAMPLE_WINDOWS, MAX_SAMPLE_WINDOWS = 1 / 8, 8, 64
"""Of a scene's windows, those that are sampled."""
SAMPLE_PIXELS, SAMPLE_BATCH = 32_768, 4
"""Pixels of a sample, and its windows that are embedded together."""


@dataclass
class Pipeline:
    """Embeds a scene into parts of a map.

    Attributes:
        tiling: windows, in pixels of the map.
        unit: pixels of the scene, along each side, per pixel of the map.
        batch: windows that are embedded together.
        seconds: how long each kind of work took; they overlap.
    """

    model: TrainedModel
    scene: SceneReader
    basis: Basis
    file: MapFile
    tiling: Tiling
    unit: int
    batch: int
    seconds: dict[str, float] = field(
        default_factory=lambda: {"reading": 0.0, "computing": 0.0, "blending": 0.0, "writing": 0.0}
    )

    @cached_property
    def projection(self) -> Projection | None:
        """From embeddings to the map's numbers."""
        return self.basis.projection(self.file.dtype == "int8", self.model.device)

    def run(
        self,
        columns: Iterable[Sequence[Window]],
        write: Callable[[Window, Shaped[Array, "k h w"]], None],
        report: Callable[[int], None],
        stop: object,
    ) -> None:
        """Embed columns of parts (one below the other, without a gap), and write each in a thread of its own.

        `report` is called with the number of pixels embedded since the last call. Raises Stopped if `stop` has become
        true, and whatever reading and writing raise.
        """
        timed_write = self._timed("writing")(write)
        with (
            embedding_threads(self.model.device) as embedders,
            ThreadPoolExecutor(1, "read") as reader,
            ThreadPoolExecutor(1, "write") as writer,
        ):
            parts = (part for column in columns for part in self._parts(column, reader, embedders, report, stop))
            for _ in ahead(writer, lambda part: timed_write(*part), parts, 1):
                pass

    def _parts(
        self,
        column: Sequence[Window],
        reader: ThreadPoolExecutor,
        embedders: ThreadPoolExecutor,
        report: Callable[[int], None],
        stop: object,
    ) -> Iterator[Part]:
        left, right = column[0].left, column[0].left + column[0].width
        lefts = self.tiling.starts(self.file.width, left, right)
        tops = self.tiling.starts(self.file.height, column[0].top, column[-1].top + column[-1].height)
        inside = slice(left - lefts[0], right - lefts[0])
        blender = Blender(self.file.height, self.tiling, lefts)
        image: Shaped[Array, "k h w"]
        rows = ahead(reader, lambda top: self._read(top, lefts, embedders), tops, ROWS_AHEAD)
        for top, valid_mask, batches in rows:
            embedded = [batch.result() for batch in batches]
            with self._timed("blending"):
                numbers = rounded(blender.add(top, embedded)[:, inside], self.file.dtype)
                numbers[~valid_mask[: len(numbers), inside]] = NODATA[self.file.dtype]
                values = numbers.permute(2, 0, 1).numpy()
            for part in column:
                begin, end = max(part.top, top), min(part.top + part.height, top + len(numbers))
                if begin >= end:
                    continue
                if begin == part.top:
                    image = np.empty((len(values), part.height, part.width), values.dtype)
                image[:, begin - part.top : end - part.top] = values[:, begin - top : end - top]
                report((end - begin) * part.width)
                if end == part.top + part.height:
                    yield part, image
            if stop:
                raise Stopped

    def _read(self, top: int, lefts: Sequence[int], embedders: ThreadPoolExecutor) -> Row:
        """Read a row of windows and queue them to be embedded."""
        with self._timed("reading"):
            side, unit, width = self.tiling.side, self.unit, lefts[-1] + self.tiling.side - lefts[0]
            crop = self.scene.read(Window(*(unit * x for x in (top, lefts[0], side, width))))
            valid = crop.any_valid(list(crop.valid)).reshape(side, unit, width, unit).any((1, 3))
            batches = [
                embedders.submit(self._embed, crop, [left - lefts[0] for left in lefts[start : start + self.batch]])
                for start in range(0, len(lefts), self.batch)
            ]
        return top, torch.from_numpy(valid), batches

    def _embed(self, crop: Crop, lefts: Sequence[int]) -> Float[Tensor, "n side side k"]:
        """Embed windows of a row of them, as the map's numbers; zeros if none has any data."""
        with self._timed("computing"):
            side = self.tiling.side * self.unit
            crops = [crop.window(Window(0, left * self.unit, side, side)) for left in lefts]
            if not any(valid_mask.any() for window in crops for valid_mask in window.valid.values()):
                return torch.zeros(len(lefts), self.tiling.side, self.tiling.side, len(self.file.descriptions))
            return self.model.embed_crops(
                crops, projection=self.projection, absent=self.scene.absent, repeat=self.unit == 1
            )

    @contextmanager
    def _timed(self, work: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[work] += time.perf_counter() - began


def sample_scene(model: TrainedModel, scene: SceneReader) -> tuple[Float[Array, "n d"], Float[Array, "m side side d"]]:
    """Embeddings of random pixels in windows spread over the scene, and of a few whole windows.

    Raises InputError if the scene has no data at all.
    """
    rng, side = np.random.default_rng(0), model.side
    available = -(-scene.grid.height // side) * -(-scene.grid.width // side)
    count = min(max(round(available * SAMPLE_SHARE), min(MIN_SAMPLE_WINDOWS, available)), MAX_SAMPLE_WINDOWS)
    pixels: list[Float[Array, "n d"]] = []
    whole: list[Float[Array, "m side side d"]] = []
    with embedding_threads(model.device) as pool:
        windows = list(scene.windows_with_data(side, count))
        batches = [windows[start : start + SAMPLE_BATCH] for start in range(0, len(windows), SAMPLE_BATCH)]
        embedded = pool.map(lambda crops: model.embed_crops(crops, absent=scene.absent).numpy(), batches)
        for crops, embeddings in zip(batches, embedded, strict=True):
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
    times = {name: len(scene.files.timestamps) if m.temporal else 1 for name, m in scene.modalities.items()}
    tokens = sum(times[name] * len(m.band_sets) for name, m in scene.modalities.items())
    tokens *= (side // model.sizes.processing) ** 2
    channels = sum(times[name] * m.channels for name, m in scene.modalities.items())
    hidden = size.width * (8 + 2 * size.mlp_ratio)  # of a token in a block: norms, query, key, value, MLP
    attention = size.heads * tokens  # a mask of missing tokens rules out the attention kernels that need no matrix
    window = 4 * (tokens * (hidden + attention) + side**2 * (4 * dims + 4 * channels))
    if model.network.encoder_upsampler.is_dense:
        window += 4 * 4 * tokens * model.sizes.factor**2 * size.width  # fine tokens: of two stages, and what is between
    if model.device.type == "cuda":
        free = torch.cuda.mem_get_info(model.device)[0] / 2
    else:
        free = min(psutil.virtual_memory().available / 4, MAX_CPU_BYTES) / torch.get_num_threads()
    return int(min(max(free // window, 1), MAX_WINDOWS[model.device.type]))

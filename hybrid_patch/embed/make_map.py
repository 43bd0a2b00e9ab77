"""A map of embeddings from a scene: what is asked for, the parts, and the file they become."""

import datetime
import errno
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from jaxtyping import Float, Shaped
from rasterio.transform import Affine

from hybrid_patch.data.source import Window
from hybrid_patch.embed.geotiff import OVERVIEWS, DType, MapFile, check_disk
from hybrid_patch.embed.map_parts import PartsFolder, divide
from hybrid_patch.embed.pipeline import Pipeline, Stopped, batch_from_memory
from hybrid_patch.embed.reduction import LARGEST, Basis, Reduce, fit, sample
from hybrid_patch.embed.scene import SceneReader
from hybrid_patch.embed.scene_files import ReadOptions
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.embed.windows import Tiling
from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import IDENTITY
from hybrid_patch.runs.progress import pixel_progress
from hybrid_patch.runs.provenance import provenance

Array = np.ndarray

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, quota or limit that is reached."""
DIMS = 64
GDAL = {"GDAL_CACHEMAX": 128 * 2**20, "GDAL_MAX_DATASET_POOL_SIZE": 16}
"""Its cache of blocks, bytes, and the parts that it keeps open, each with buffers of several blocks."""
SPARE = 1.3
"""Disk space asked for, relative to what is expected to be needed."""


class Request(NamedTuple):
    """What is asked for; see the command's help.

    Attributes:
        dims: numbers per pixel; None: `DIMS` or the model's width, if that is less; 0: the model's width, as they are.
        overlap: pixels; None: a quarter of a window.
        batch: windows that are embedded together; None: from free memory.
        patches: a pixel of the map is an output patch of the model instead of a pixel of the scene.
    """

    input: Path
    output: Path
    dims: int | None = None
    reduce: Reduce = "pca"
    dtype: DType = "float32"
    overlap: int | None = None
    batch: int | None = None
    patches: bool = False
    cog: bool = True
    reading: ReadOptions = ReadOptions()

    def options(self) -> dict[str, Any]:
        """All that changes the numbers of the map, as plain values."""
        reading = {key: str(x) if isinstance(x, datetime.date) else x for key, x in self.reading._asdict().items()}
        return {
            "dims": self.dims,
            "reduce": self.reduce,
            "dtype": self.dtype,
            "overlap": self.overlap,
            "cog": self.cog,
            "grid": "patch" if self.patches else "pixel",
            **reading,
        }


def make_map(
    model: TrainedModel, request: Request, say: Callable[[str], None] = print, stop: object = None
) -> dict[str, float]:
    """Embed a scene into a file; the seconds of each phase, and of the work that goes on beside one another.

    Args:
        say: told what a person should know.
        stop: becomes true when the work is to end with what is done so far.

    Raises InputError, one line, and leaves nothing behind but parts that can be gone on with; Stopped.
    """
    with rasterio.Env(**GDAL):
        return _make_map(model, request, say, stop)


def _make_map(model: TrainedModel, request: Request, say: Callable[[str], None], stop: object) -> dict[str, float]:
    began = time.monotonic()
    if request.output.exists():
        raise InputError(f"output={request.output}: exists already; remove it or name another")
    inputs = {name: model.modalities[name] for name in model.inputs}
    scene = SceneReader(request.input, inputs, model.config.data.timesteps, request.reading)
    for note in scene.inputs.notes:
        say(note)
    reduce, dims = _kept(request, model)
    unit = model.sizes.output if request.patches else 1
    tiling = _tiling(model, request, unit)
    folder = PartsFolder(request.output)
    job = _job(model, scene, request)
    resumed = folder.resume(job)
    if resumed is None:
        drawn, images = sample(model, scene)
        basis = fit(drawn, reduce, dims)
        batch = request.batch or batch_from_memory(model, scene, dims)
        file = _file(model, scene, request, basis, unit)
        ratio = _compressed(file, basis, images)
    else:
        basis, batch = resumed
        file, ratio = _file(model, scene, request, basis, unit), 0.0
    strips = divide(file, tiling.side)
    every = [part for strip in strips for part in strip]
    pending = [part for part in every if not folder.file(part).exists()]
    if resumed is not None:
        say(f"going on with {folder.path}: {len(every) - len(pending)} of {len(every)} parts are done")
        done = [part for part in every if part not in pending]
        sizes = sum(folder.file(part).stat().st_size for part in done)
        ratio = sizes / (sum(map(_pixels, done)) * file.pixel_bytes) if done else 1.0
    _check_disk(request, file, sum(map(_pixels, pending)), ratio)
    if resumed is None:
        folder.begin(job, basis, batch)
    say(
        f"{scene.height}×{scene.width} pixels, {dims} numbers each as {request.dtype}; windows of {tiling.side * unit} "
        f"pixels, {batch} at a time; parts to be made: {len(pending)}"
    )
    prepared = time.monotonic()
    try:
        pipeline = Pipeline(model, scene, basis, file, tiling, unit, batch)
        total = sum(map(_pixels, every))
        resumed_pixels = total - sum(map(_pixels, pending))
        with pixel_progress(total, resumed_pixels, scene.pixel_km2 * unit**2) as report:

            def write(part: Window, values: Shaped[Array, "k h w"]) -> None:
                file.write_part(folder.file(part), values, (part.top, part.left))

            pipeline.run(strips, set(pending), write, report, stop)
        embedded = time.monotonic()
        file.join(folder.joined, {folder.file(part): part for part in every})
        with rasterio.Env(GDAL_CACHEMAX=max(GDAL["GDAL_CACHEMAX"], file.cache)):
            _copy(file, folder, stop)
    except InputError:
        folder.remove()
        raise
    except OSError as error:
        folder.remove_copy()
        if error.errno in NO_SPACE or "space left" in str(error) or "too large" in str(error).lower():
            why = f"no space left on disk ({error.strerror or error})"
        else:
            why = str(error)
        raise InputError(
            f"output={request.output}: {why}; the same command goes on from the parts in {folder.path}, or remove them"
        ) from error
    folder.finish()
    ended = time.monotonic()
    return {
        "preparing": prepared - began,
        "embedding": embedded - prepared,
        "copying": ended - embedded,
        "total": ended - began,
        **pipeline.seconds,
        "pixels": float(scene.height * scene.width),
        "bytes": float(request.output.stat().st_size),
    }


def _kept(request: Request, model: TrainedModel) -> tuple[Reduce, int]:
    """How numbers are reduced, and to how many."""
    width = model.config.model.encoder.width
    if request.dims == 0:
        return "none", width
    if request.dims is not None and request.dims > width:
        raise InputError(f"dims={request.dims}: the model's width is {width}; takes 1 to {width}, or full")
    return request.reduce, request.dims or min(DIMS, width)


def _tiling(model: TrainedModel, request: Request, unit: int) -> Tiling:
    """Windows, in pixels of the map."""
    side = model.side
    if request.overlap is not None and request.overlap >= side:
        raise InputError(f"overlap={request.overlap}: takes 0 to {side - 1} pixels, less than the {side} of a window")
    return Tiling(*(x // unit for x in model.tiling(request.overlap)))


def _job(model: TrainedModel, scene: SceneReader, request: Request) -> dict[str, Any]:
    return {"run": _run_id(model), "step": model.step, **request.options(), "files": scene.files()}


def _run_id(model: TrainedModel) -> str:
    try:
        return str(json.loads((model.run / IDENTITY).read_text())["run_id"])
    except (OSError, ValueError, KeyError):
        return model.run.resolve().name


def _file(model: TrainedModel, scene: SceneReader, request: Request, basis: Basis, unit: int) -> MapFile:
    bands, t = basis.descriptions(), scene.grid.transform
    steps = request.dtype == "int8"
    tags = {
        "RUN": _run_id(model),
        "STEP": str(model.step),
        "COMMIT": str(provenance()["commit"]),
        "PROCESSING_PATCH_SIZE": str(model.sizes.processing),
        "OUTPUT_PATCH_SIZE": str(model.sizes.output),
        "OPTIONS": json.dumps(request.options() | {"dims": len(bands), "reduce": basis.kind}),
        "INPUT": request.input.name,
        "MODALITIES": ", ".join(scene.modalities),
        "DATES": ", ".join(map(str, scene.inputs.dates)),
        "UNITS": "none (embedding)" + (": value = SCALES × number + OFFSETS, -128 is no data" if steps else ""),
    }
    scales, offsets = basis.scale.tolist(), basis.offset.tolist()
    if steps:
        tags |= {"SCALES": json.dumps(scales), "OFFSETS": json.dumps(offsets)}
    return MapFile(
        -(-scene.height // unit),
        -(-scene.width // unit),
        scene.grid.crs,
        Affine(t.a * unit, t.b * unit, t.c, t.d * unit, t.e * unit, t.f),
        request.dtype,
        bands,
        scales,
        offsets,
        {f"EMBEDDING_{key}": text for key, text in tags.items()},
        request.cog,
    )


def _pixels(part: Window) -> int:
    return part.height * part.width


def _compressed(file: MapFile, basis: Basis, images: Float[Array, "n h w d"]) -> float:
    """The share that compression leaves of a map, judged by the embeddings of some windows."""
    numbers = np.concatenate(images @ basis.weight + basis.bias, axis=1)
    if file.dtype == "int8":
        numbers = ((numbers - basis.offset) / basis.scale).round().clip(-LARGEST, LARGEST)
    values = np.ascontiguousarray(np.moveaxis(numbers, -1, 0)).astype(file.stored)
    return len(file.encode(values)) / values.nbytes


def _check_disk(request: Request, file: MapFile, pending: int, ratio: float) -> None:
    """Room for the missing parts and the file, each with its overviews."""
    pixels = (1 + OVERVIEWS * request.cog) * (pending + file.height * file.width)
    check_disk(request.output.absolute().parent, pixels * file.pixel_bytes * ratio * SPARE, f"output={request.output}")


def _copy(file: MapFile, folder: PartsFolder, stop: object) -> None:
    """The copy, in a thread: GDAL listens to no signal. After Stopped it still goes on: the process has to be ended."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            file.copy(folder.joined, folder.copy)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        if stop:
            raise Stopped
    if failed:
        raise failed[0]

"""Make a map of embeddings from a scene: embed its parts, and copy them into one file."""

import errno
import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import rasterio
from jaxtyping import Float, Shaped
from rasterio.transform import Affine

from hybrid_patch.data.source import Window
from hybrid_patch.embed.geotiff import OVERVIEWS, MapFile, check_disk
from hybrid_patch.embed.map_parts import PartsFolder, Strip, divide
from hybrid_patch.embed.options import MapOptions
from hybrid_patch.embed.pipeline import Pipeline, Stopped, batch_from_memory, sample_scene
from hybrid_patch.embed.reduction import INT8_MAX, Basis, Reduce, fit_basis
from hybrid_patch.embed.scene import SceneReader
from hybrid_patch.embed.scene_files import ReadOptions
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.embed.windows import Tiling
from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import IDENTITY
from hybrid_patch.runs.progress import pixel_progress
from hybrid_patch.runs.provenance import provenance

Array = np.ndarray
Log = Callable[[str], None]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk, an exhausted quota, and a limit of a file's size."""
DEFAULT_DIMS = 64
GDAL = {"GDAL_CACHEMAX": 128 * 2**20, "GDAL_MAX_DATASET_POOL_SIZE": 16}
"""The bytes of its block cache, and the number of parts that it keeps open, each with buffers of several blocks."""
DISK_MARGIN = 1.3
"""Free disk space that is required, relative to the estimate."""


class MapReport(NamedTuple):
    """What a map took.

    Attributes:
        phases: seconds of preparing, embedding and copying, one after another.
        work: seconds of reading, computing, blending and writing, which overlap while embedding.
        pixels: of the scene.
        bytes: of the file.
    """

    phases: dict[str, float]
    work: dict[str, float]
    pixels: int
    bytes: int


class _Job(NamedTuple):
    """A map to be made: its file, its parts, and which of them are missing."""

    folder: PartsFolder
    file: MapFile
    basis: Basis
    tiling: Tiling
    unit: int
    batch: int
    strips: list[Strip]
    pending: set[Window]

    @property
    def parts(self) -> list[Window]:
        return [part for strip in self.strips for part in strip]


def make_map(model: TrainedModel, options: MapOptions, log: Log = print, stop: object = None) -> MapReport:
    """Embed a scene into a file.

    Args:
        log: called with messages for the user.
        stop: becomes true when the user asks to stop.

    Raises InputError, one line, after which only resumable parts are left; Stopped.
    """
    with rasterio.Env(**GDAL):
        began = time.monotonic()
        read_options = ReadOptions(
            options.date, options.missing_bands == "drop", options.resolution == "any", options.nodata
        )
        inputs = {name: model.modalities[name] for name in model.inputs}
        scene = SceneReader(options.input, inputs, model.config.data.timesteps, read_options)
        for note in scene.inputs.notes:
            log(note)
        job = _prepare(model, scene, options, log)
        prepared = time.monotonic()
        try:
            work = _embed(model, scene, job, stop)
            embedded = time.monotonic()
            _copy(job, stop)
        except InputError:
            job.folder.remove()
            raise
        except OSError as error:
            job.folder.remove_copy()
            raise InputError(f"output={options.output}: {_disk_message(error, job.folder)}") from error
        job.folder.finish()
        ended = time.monotonic()
    phases = {"preparing": prepared - began, "embedding": embedded - prepared, "copying": ended - embedded}
    return MapReport(phases, work, scene.height * scene.width, options.output.stat().st_size)


def _prepare(model: TrainedModel, scene: SceneReader, options: MapOptions, log: Log) -> _Job:
    """Fit the basis (or load that of an earlier start), find the missing parts, and check the free disk space."""
    reduce, dims = _reduction(options, model)
    unit = model.sizes.output if options.grid == "patch" else 1
    tiling = _tiling(model, options, unit)
    folder = PartsFolder(options.output)
    identity = {"run": _run_id(model), "step": model.step, **options.identity(), "files": scene.files()}
    resumed = folder.resume(identity)
    if resumed is None:
        sample, images = sample_scene(model, scene)
        basis, batch = fit_basis(sample, reduce, dims), options.batch or batch_from_memory(model, scene, dims)
    else:
        basis, batch = resumed
    file = _map_file(model, scene, options, basis, unit)
    strips = divide(file, tiling.side)
    parts = [part for strip in strips for part in strip]
    done = [part for part in parts if folder.file(part).exists()]
    job = _Job(folder, file, basis, tiling, unit, batch, strips, set(parts) - set(done))
    if resumed is None:
        ratio = _compression(file, basis, images)
    else:
        log(f"resuming {folder.path}: {len(done)} of {len(parts)} parts are done")
        written = sum(folder.file(part).stat().st_size for part in done)
        ratio = written / (_pixels(done) * file.pixel_bytes) if done else 1.0
    # The missing parts and the file, each with its overviews.
    pixels = (1 + OVERVIEWS * options.cog) * (_pixels(job.pending) + file.height * file.width)
    needed = pixels * file.pixel_bytes * ratio * DISK_MARGIN
    check_disk(options.output.absolute().parent, needed, f"output={options.output}")
    if resumed is None:
        folder.begin(identity, basis, batch)
    log(
        f"{scene.height}×{scene.width} pixels, {dims} numbers each as {options.dtype}; windows of {tiling.side * unit} "
        f"pixels, {batch} at a time; {len(job.pending)} parts to make"
    )
    return job


def _reduction(options: MapOptions, model: TrainedModel) -> tuple[Reduce, int]:
    """How embeddings are reduced, and to how many numbers."""
    width = model.config.model.encoder.width
    if options.dims == "full":
        return "none", width
    if options.dims is not None and options.dims > width:
        raise InputError(f"dims={options.dims}: the model's width is {width}; takes 1 to {width}, or full")
    return options.reduce, options.dims or min(DEFAULT_DIMS, width)


def _tiling(model: TrainedModel, options: MapOptions, unit: int) -> Tiling:
    """Windows, in pixels of the map."""
    side = model.side
    if options.overlap is not None and options.overlap >= side:
        raise InputError(f"overlap={options.overlap}: takes 0 to {side - 1} pixels, less than the {side} of a window")
    return Tiling(*(x // unit for x in model.tiling(options.overlap)))


def _run_id(model: TrainedModel) -> str:
    try:
        return str(json.loads((model.run / IDENTITY).read_text())["run_id"])
    except (OSError, ValueError, KeyError):
        return model.run.resolve().name


def _map_file(model: TrainedModel, scene: SceneReader, options: MapOptions, basis: Basis, unit: int) -> MapFile:
    bands, t = basis.descriptions(), scene.grid.transform
    scales, offsets = basis.scale.tolist(), basis.offset.tolist()
    tags = {
        "RUN": _run_id(model),
        "STEP": str(model.step),
        "COMMIT": str(provenance()["commit"]),
        "PROCESSING_PATCH_SIZE": str(model.sizes.processing),
        "OUTPUT_PATCH_SIZE": str(model.sizes.output),
        "OPTIONS": json.dumps(options.identity() | {"dims": len(bands), "reduce": basis.kind}),
        "INPUT": options.input.name,
        "MODALITIES": ", ".join(scene.modalities),
        "DATES": ", ".join(map(str, scene.inputs.dates)),
        "UNITS": "none (embedding)",
    }
    if options.dtype == "int8":
        tags["UNITS"] += ": value = SCALES × number + OFFSETS, -128 is no data"
        tags |= {"SCALES": json.dumps(scales), "OFFSETS": json.dumps(offsets)}
    return MapFile(
        height=-(-scene.height // unit),
        width=-(-scene.width // unit),
        crs=scene.grid.crs,
        transform=Affine(t.a * unit, t.b * unit, t.c, t.d * unit, t.e * unit, t.f),
        dtype=options.dtype,
        descriptions=bands,
        scales=scales,
        offsets=offsets,
        tags={f"EMBEDDING_{key}": text for key, text in tags.items()},
        cog=options.cog,
    )


def _compression(file: MapFile, basis: Basis, images: Float[Array, "n h w d"]) -> float:
    """The size of a map after compression relative to before, estimated from the embeddings of some windows."""
    numbers = np.concatenate(images @ basis.weight + basis.bias, axis=1)
    if file.dtype == "int8":
        numbers = ((numbers - basis.offset) / basis.scale).round().clip(-INT8_MAX, INT8_MAX)
    values = np.ascontiguousarray(np.moveaxis(numbers, -1, 0)).astype(file.stored)
    return len(file.encode(values)) / values.nbytes


def _pixels(parts: Iterable[Window]) -> int:
    return sum(part.height * part.width for part in parts)


def _embed(model: TrainedModel, scene: SceneReader, job: _Job, stop: object) -> dict[str, float]:
    """Make the missing parts; the seconds that each kind of work took."""
    pipeline = Pipeline(model, scene, job.basis, job.file, job.tiling, job.unit, job.batch)
    total = _pixels(job.parts)

    def write(part: Window, values: Shaped[Array, "k h w"]) -> None:
        job.file.write_part(job.folder.file(part), values, (part.top, part.left))

    with pixel_progress(total, total - _pixels(job.pending), scene.pixel_km2 * job.unit**2) as report:
        pipeline.run(job.strips, job.pending, write, report, stop)
    return pipeline.seconds


def _copy(job: _Job, stop: object) -> None:
    """Join the parts and copy them into one file.

    The copy runs in a thread because GDAL ignores signals. After Stopped it continues until the process ends.
    """
    file, folder = job.file, job.folder
    file.join(folder.joined, {folder.file(part): part for part in job.parts})
    errors: list[BaseException] = []

    def copy() -> None:
        try:
            file.copy(folder.joined, folder.copy)
        except BaseException as error:
            errors.append(error)

    with rasterio.Env(GDAL_CACHEMAX=max(GDAL["GDAL_CACHEMAX"], file.cache)):
        thread = threading.Thread(target=copy, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.2)
            if stop:
                raise Stopped
    if errors:
        raise errors[0]


def _disk_message(error: OSError, folder: PartsFolder) -> str:
    message = " ".join(str(error).split())
    if error.errno in NO_SPACE or "space left" in message or "too large" in message.lower():
        message = f"no space left on disk ({error.strerror or message})"
    return f"{message}; run the same command again to resume from the parts in {folder.path}, or remove them"

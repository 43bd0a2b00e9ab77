"""Make a map of embeddings from a scene: embed its parts, and copy them into one file."""

import errno
import json
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import torch
from jaxtyping import Float, Shaped
from rasterio.transform import Affine

from hybrid_patch.data.source import Window
from hybrid_patch.embed.geotiff import OVERVIEWS, MapFile, scaled_points
from hybrid_patch.embed.map_parts import JOB_TAG, PartsFolder, divide
from hybrid_patch.embed.options import MapOptions
from hybrid_patch.embed.pipeline import Pipeline, batch_from_memory, sample_scene
from hybrid_patch.embed.reduction import Basis, Reduce, fit_basis, rounded
from hybrid_patch.embed.scene import SceneReader
from hybrid_patch.embed.scene_files import find_scene
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.embed.windows import Tiling
from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.progress import pixel_progress
from hybrid_patch.runs.provenance import provenance
from hybrid_patch.runs.records import DamagedFileError
from hybrid_patch.runs.stop_signal import Stopped

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
    """The seconds of each phase of a map, one after another, and of each kind of work while embedding, which overlap;
    the pixels of the scene, and the bytes of the file."""

    phases: dict[str, float]
    work: dict[str, float]
    pixels: int
    bytes: int


class _Job(NamedTuple):
    """A map to be made: its parts, what makes them, and the missing ones, in columns of parts without a gap."""

    folder: PartsFolder
    pipeline: Pipeline
    parts: list[Window]
    missing: list[list[Window]]


def make_map(model: TrainedModel, options: MapOptions, log: Log = print, stop: object = None) -> MapReport | None:
    """Embed a scene into a file, unless it is done already (None).

    `log` is called with messages, and `stop` becomes true when the user asks to stop. Raises InputError, one line,
    after which only resumable parts are left; Stopped; LostLockError.
    """
    with rasterio.Env(**GDAL):
        began = time.monotonic()
        inputs = {name: model.modalities[name] for name in model.inputs}
        scene = find_scene(options, inputs, model.config.data.timesteps)
        identity = {"run": _run_id(model), "step": model.step, **options.identity(), "files": scene.identity()}
        folder = PartsFolder(options.output, identity)
        if folder.finished():
            return None
        for note in (*scene.notes, *scene.outside_training(model.config.data.tile)):
            log(note)
        job = _prepare(model, scene, options, folder, log)
        prepared = time.monotonic()
        try:
            _embed(job, scene, stop)
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
    size = options.output.stat().st_size
    return MapReport(phases, job.pipeline.seconds, scene.grid.height * scene.grid.width, size)


def _prepare(model: TrainedModel, scene: SceneReader, options: MapOptions, folder: PartsFolder, log: Log) -> _Job:
    """Fit the basis (or load that of an earlier start), find the missing parts, and check the free disk space."""
    reduce, dims = _reduction(options, model)
    unit = model.sizes.output if options.grid == "patch" else 1
    tiling = Tiling(*(x // unit for x in model.tiling(options.overlap)))
    resumed = folder.resume()
    if resumed is None:
        sample, images = sample_scene(model, scene)
        basis, batch = fit_basis(sample, reduce, dims), options.batch or batch_from_memory(model, scene, dims)
    else:
        basis, batch = resumed
    file = _map_file(model, scene, options, basis, unit, folder.job_id)
    pipeline = Pipeline(model, scene, basis, file, tiling, unit, batch)
    columns = divide(file, tiling.side)
    done = {part for column in columns for part in column if folder.file(part).exists()}
    runs = [groupby(column, done.__contains__) for column in columns]
    missing = [list(run) for column in runs for is_done, run in column if not is_done]
    job = _Job(folder, pipeline, [part for column in columns for part in column], missing)
    if resumed is None:
        ratio = _compression(pipeline, images)
    else:
        log(f"resuming {folder.path}: {len(done)} of {len(job.parts)} parts are done")
        written = sum(folder.file(part).stat().st_size for part in done)
        ratio = written / (_pixels(done) * file.pixel_bytes) if done else 1.0
    # The missing parts and the file, each with its overviews.
    pixels = (1 + OVERVIEWS * options.cog) * (_pixels(chain(*missing)) + file.height * file.width)
    _check_disk(options.output, pixels * file.pixel_bytes * ratio * DISK_MARGIN)
    if resumed is None:
        folder.begin(basis, batch)
    log(
        f"{scene.grid.height}×{scene.grid.width} pixels, {dims} numbers each as {options.dtype}; windows of "
        f"{tiling.side * unit} pixels, {batch} at a time; {sum(map(len, missing))} parts to make"
    )
    return job


def _check_disk(output: Path, needed: float) -> None:
    folder = output.absolute().parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"output={output}: needs about {needed / 1e9:.3g} GB in {folder}, where {free / 1e9:.3g} GB are free; try "
            "another disk, fewer dims, dtype=int8 or cog=false"
        )


def _reduction(options: MapOptions, model: TrainedModel) -> tuple[Reduce, int]:
    """How embeddings are reduced, and to how many numbers."""
    width = model.config.model.encoder.width
    if options.dims == "full":
        return "none", width
    if options.dims is not None and options.dims > width:
        raise InputError(f"dims={options.dims}: the model's width is {width}; takes 1 to {width}, or full")
    return options.reduce, options.dims or min(DEFAULT_DIMS, width)


def _run_id(model: TrainedModel) -> str:
    try:
        return str(RunDirectory(model.run).identity()["run_id"])
    except (OSError, DamagedFileError):
        return model.run.resolve().name


def _map_file(
    model: TrainedModel, scene: SceneReader, options: MapOptions, basis: Basis, unit: int, job: str
) -> MapFile:
    bands = basis.descriptions()
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
        "DATES": ", ".join(map(str, scene.dates)),
        "UNITS": "none (embedding)",
    }
    if options.dtype == "int8":
        tags["UNITS"] += ": value = SCALES × number + OFFSETS, -128 is no data"
        tags |= {"SCALES": json.dumps(scales), "OFFSETS": json.dumps(offsets)}
    return MapFile(
        height=-(-scene.grid.height // unit),
        width=-(-scene.grid.width // unit),
        crs=scene.grid.crs,
        transform=scene.grid.transform * Affine.scale(unit) if scene.grid.has_transform else Affine.identity(),
        gcps=scaled_points(scene.grid.gcps, unit),
        dtype=options.dtype,
        descriptions=bands,
        scales=scales,
        offsets=offsets,
        tags={f"EMBEDDING_{key}": text for key, text in tags.items()} | {JOB_TAG: job},
        cog=options.cog,
    )


def _compression(pipeline: Pipeline, images: Float[Array, "n h w d"]) -> float:
    """The size of a map after compression relative to before, estimated from the embeddings of some windows."""
    file, numbers = pipeline.file, torch.from_numpy(np.concatenate(images, axis=1))
    if pipeline.projection is not None:
        numbers = numbers @ pipeline.projection.weight.cpu() + pipeline.projection.bias.cpu()
    values = rounded(numbers, file.dtype).permute(2, 0, 1).numpy()
    return len(file.encode(values)) / values.nbytes


def _pixels(parts: Iterable[Window]) -> int:
    return sum(part.height * part.width for part in parts)


def _embed(job: _Job, scene: SceneReader, stop: object) -> None:
    """Make the missing parts."""
    pipeline, total = job.pipeline, _pixels(job.parts)

    def write(part: Window, values: Shaped[Array, "k h w"]) -> None:
        pipeline.file.write_part(job.folder.file(part), values, (part.top, part.left), job.folder.check_held)

    done = total - _pixels(chain(*job.missing))
    with pixel_progress(total, done, scene.pixel_km2 * pipeline.unit**2) as report:
        pipeline.run(job.missing, write, report, stop)


def _copy(job: _Job, stop: object) -> None:
    """Join the parts and copy them into one file.

    The copy runs in a thread because GDAL ignores signals. After Stopped it continues until the process ends.
    """
    file, folder = job.pipeline.file, job.folder
    folder.check_held()
    file.join(folder.joined, {folder.file(part): part for part in job.parts})
    with rasterio.Env(GDAL_CACHEMAX=max(GDAL["GDAL_CACHEMAX"], file.cache(file.block))):
        copy = ThreadPoolExecutor(1).submit(file.copy, folder.joined, folder.copy)
        while not wait([copy], 0.2).done:
            if stop:
                raise Stopped
        copy.result()


def _disk_message(error: OSError, folder: PartsFolder) -> str:
    message = " ".join(str(error).split())
    if error.errno in NO_SPACE or "space left" in message or "too large" in message.lower():
        message = f"no space left on disk ({error.strerror or message})"
    return f"{message}; run the same command again to resume from the parts in {folder.path}, or remove them"

"""Write synthetic scenes as OlmoEarth files.

For measuring how fast such a folder is read, and for trying what reads one. Exit code: 0 done · 2 bad input. A folder
is complete when its `sample_metadata.csv` is there, which is written last; the same command continues one that is
not.
"""

import io
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import h5py
import hdf5plugin
import numpy as np
from jaxtyping import Bool, Float, Shaped
from rich.progress import track

from hybrid_patch.config.command import run_command
from hybrid_patch.config.compose import compose
from hybrid_patch.config.field_types import Count
from hybrid_patch.config.options import Option, Overrides, Positional
from hybrid_patch.data.olmoearth.sample_file import MISSING
from hybrid_patch.data.source import Sample, Window
from hybrid_patch.data.synthetic import Synthetic
from hybrid_patch.data.synthetic.source import SyntheticSource
from hybrid_patch.data.synthetic.spectra import CLASSES
from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_bytes, write_json, write_text

Array = np.ndarray

ZSTD_LEVEL = 3
"""That of the original files."""
WORLDCOVER_CODES = {
    "water": 80,
    "broadleaf forest": 10,
    "conifer forest": 10,
    "grassland": 30,
    "winter wheat": 40,
    "rapeseed": 40,
    "maize": 40,
    "sugar beet": 40,
    "building": 50,
    "road": 50,
}
"""What ESA WorldCover calls the scenes' classes."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What the command line asks for."""

    samples: Annotated[Count, Option("N", "samples to write")]
    output: Annotated[Path, Positional("FOLDER", "new or empty, or begun by the same command")]
    workers: Annotated[Count, Option("N", "processes that make them")] = 1
    overrides: Annotated[
        tuple[str, ...], Overrides({"key=value": "overrides of data=synthetic, as in hybrid-patch train"})
    ] = ()

    def __post_init__(self) -> None:
        _check_output(self)

    @cached_property
    def data(self) -> Synthetic:
        """The scenes. Raises InputError."""
        data = compose(["data=synthetic", *self.overrides]).data
        if not isinstance(data, Synthetic):
            raise InputError(f"data={data.name}: only synthetic scenes are written; leave it out")
        return data


def main() -> None:
    """The command."""
    run_command("python -m tests.tools.export", __doc__, ExportOptions, export_command)


def export_command(options: ExportOptions) -> None:
    """Write the folder and say so."""
    export(options)
    print(f"{options.samples} samples in {options.output}")


def _check_output(options: ExportOptions) -> None:
    """A folder that holds anything but samples of this very export is left alone."""
    output, note = options.output, _note(options)
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"output={output}: is a file; give a new folder")
    path = output / "export.json"
    if path.is_file() and json.loads(path.read_text()) != note:
        raise InputError(f"output={output}: holds another export, {path.read_text().strip()}; give a new folder")
    if not path.is_file() and any(output.iterdir()):
        raise InputError(f"output={output}: holds other files; give a new or empty folder")


def _note(options: ExportOptions) -> dict[str, object]:
    data = options.data
    sizes = {"scene_size": data.scene_size, "scene_timesteps": data.scene_timesteps, "scene_seed": data.scene_seed}
    return {"samples": options.samples, **sizes, "modalities": sorted(data.modalities)}


def export(options: ExportOptions) -> None:
    """Write the folder. What is there already is not made again."""
    output = options.output
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "export.json", _note(options))
    jobs = [(options.data, index, output) for index in range(options.samples)]
    with ProcessPoolExecutor(options.workers) as pool:
        coordinates = list(
            track(pool.map(_write_sample, jobs, chunksize=4), "writing", len(jobs), disable=not sys.stdout.isatty())
        )
    names = sorted([*options.data.modalities, "worldcover"])
    rows = [",".join([str(index), *["1"] * len(names)]) for index in range(options.samples)]
    buffer = io.BytesIO()
    np.save(buffer, np.array(coordinates, np.float32))
    write_bytes(output / "latlon_distribution.npy", buffer.getvalue())
    write_json(
        output / "compression_settings.json", {"compression": "zstd", "compression_opts": ZSTD_LEVEL, "shuffle": None}
    )
    write_text(output / "sample_metadata.csv", "\n".join([",".join(["sample_index", *names]), *rows, ""]))


def _write_sample(job: tuple[Synthetic, int, Path]) -> Float[Array, "2"]:
    """One file, unless it is there; its place."""
    data, index, folder = job
    path = folder / f"sample_{index}.h5"
    if path.exists():
        with h5py.File(path, "r") as file:
            return np.asarray(file["latlon"][()])
    source = SyntheticSource(data)
    height, width, length = source.shape(index)
    sample = source.read(index, Window(0, 0, height, width), np.arange(length))
    write_bytes(path, content(sample))
    assert sample.latlon is not None
    return np.asarray(sample.latlon, np.float32)


def content(sample: Sample) -> bytes:
    """A labelled sample as the bytes of a file in the layout: series packed, every array one compressed chunk."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["latlon"] = np.asarray(sample.latlon, np.float32)
        file["timestamps"] = sample.timestamps
        for name, image in sample.images.items():
            valid, temporal = sample.valid[name], image.shape[2] > 1
            timestep_mask = valid.any((0, 1)) if temporal else np.ones(1, bool)
            _add(file, name, _stored(name, image[:, :, timestep_mask], valid[:, :, timestep_mask]))
            if temporal:
                file[f"missing_timesteps_masks/{name}"] = timestep_mask
        assert sample.labels is not None
        codes = np.array([WORLDCOVER_CODES[name] for name in CLASSES], np.uint8)
        _add(file, "worldcover", codes[sample.labels][..., None, None])
    return buffer.getvalue()


def _stored(name: str, image: Float[Array, "h w t c"], valid: Bool[Array, "h w t"]) -> Shaped[Array, "h w t c"]:
    """The numbers as they are stored: whole ones where they are, as narrow as a missing value allows."""
    values = np.where(valid[..., None], image, np.float32(MISSING))
    if name == "sentinel1":
        return values
    return values.astype(np.uint16 if valid.all() and name == "sentinel2_l2a" else np.int32)


def _add(file: h5py.File, name: str, values: Shaped[Array, "h w t c"]) -> None:
    file.create_dataset(name, data=values, chunks=values.shape, **hdf5plugin.Zstd(ZSTD_LEVEL))


if __name__ == "__main__":
    main()

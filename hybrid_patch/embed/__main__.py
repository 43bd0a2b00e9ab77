"""Embed a scene: every pixel of it, of any size, through a trained run's encoder, into a GeoTIFF on the scene's grid.

The input is a GeoTIFF, a folder of GeoTIFFs whose names start with dates, or a folder with one of these for each of the
run's modalities, under its name. Stopped and started again, the same command goes on with the parts that are missing.
Exit code: 0 done · 2 bad input · 75 stopped by a signal, 130 by Ctrl-C, and the parts that are done are kept.
"""

import datetime
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from hybrid_patch.config.options import Amount, Count, Option, OutputFile, Positional, run_command
from hybrid_patch.errors import INTERRUPTED, STOPPED, InputError, require_extra
from hybrid_patch.runs.stop_signal import stop_requests

if TYPE_CHECKING:
    from hybrid_patch.embed.make_map import Request


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """What the command line asks for."""

    run: Annotated[Path, Positional("DIR", "the trained run")]
    input: Annotated[Path, Positional("SCENE", "the scene: a GeoTIFF, or a folder")]
    output: Annotated[OutputFile, Positional("MAP.tif", "the map, a new file")]
    dims: Annotated[
        Count | Literal["full"] | None,
        Option("N|full", "numbers per pixel (default: 64, or the model's width if less); full: all, as they are"),
    ] = None
    reduce: Annotated[
        Literal["pca", "random"],
        Option("", "to principal components of a sample of the scene, or to random orthogonal directions"),
    ] = "pca"
    dtype: Annotated[
        Literal["float32", "float16", "int8"], Option("", "int8 comes with a scale and offset for each band")
    ] = "float32"
    overlap: Annotated[
        Amount | None, Option("PIXELS", "that neighbouring windows share (default: a quarter of the training's tile)")
    ] = None
    batch: Annotated[Count | None, Option("N", "windows that are embedded together (default: by free memory)")] = None
    date: Annotated[
        datetime.date | None,
        Option("2024-05-31", "of an input of one date, if neither its name nor its tag TIFFTAG_DATETIME has it"),
    ] = None
    nodata: Annotated[float | None, Option("VALUE", "what means 'no data' in files that do not say")] = None
    missing_bands: Annotated[
        Literal["error", "drop"], Option("", "drop: leave out the band sets that a missing band is in")
    ] = "error"
    resolution: Annotated[
        Literal["same", "any"], Option("", "any: take pixels of another size than the training's as they are")
    ] = "same"
    grid: Annotated[
        Literal["pixel", "patch"], Option("", "patch: one pixel of the map for each output patch of the model")
    ] = "pixel"
    cog: Annotated[bool, Option("", "false: a tiled GeoTIFF without overviews, quicker and smaller")] = True
    device: Annotated[Literal["auto", "cpu", "cuda"], Option("", "where the model runs")] = "auto"

    def __post_init__(self) -> None:
        if self.output.exists():
            raise InputError(f"output={self.output}: exists already; remove it or name another")

    def request(self) -> "Request":
        """The map that these options describe."""
        from hybrid_patch.embed.make_map import Request
        from hybrid_patch.embed.scene_files import ReadOptions

        return Request(
            input=self.input,
            output=self.output,
            dims=0 if self.dims == "full" else self.dims,
            reduce=self.reduce,
            dtype=self.dtype,
            overlap=self.overlap,
            batch=self.batch,
            patches=self.grid == "patch",
            cog=self.cog,
            reading=ReadOptions(self.date, self.missing_bands == "drop", self.resolution == "any", self.nodata),
        )


def main() -> None:
    """The command."""
    run_command("hybrid-patch embed", __doc__, EmbedOptions, embed)


def embed(options: EmbedOptions) -> None:
    """Write the map, and say how long it took. Raises InputError."""
    require_extra("geo", "rasterio")
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")  # scenes may be without, overviews are
    with stop_requests() as stop:
        from hybrid_patch.embed.make_map import make_map
        from hybrid_patch.embed.pipeline import Stopped
        from hybrid_patch.embed.trained_model import load

        request = options.request()
        try:
            seconds = make_map(load(options.run, options.device), request, _log, stop)
        except (Stopped, KeyboardInterrupt):
            code = INTERRUPTED if stop.signal in (None, signal.SIGINT) else STOPPED
            _log("stopped; the same command goes on from the parts that are done")
            sys.stdout.flush()
            os._exit(code)  # GDAL may be in the middle of a copy, which nothing else can end
    print(summary(request, seconds))


def summary(request: "Request", seconds: Mapping[str, float]) -> str:
    """What was written, and the time of each phase."""
    phases = ", ".join(f"{phase} {seconds[phase]:.1f} s" for phase in ("preparing", "embedding", "copying"))
    beside = ", ".join(f"{work} {seconds[work]:.1f} s" for work in ("reading", "computing", "blending", "writing"))
    speed = seconds["pixels"] / seconds["total"]
    return (
        f"{request.output}: {seconds['bytes'] / 1e6:,.1f} MB in {seconds['total']:.1f} s, {speed:,.0f} pixels/s\n"
        f"one after another: {phases}\n"
        f"busy while embedding, beside one another: {beside}"
    )


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

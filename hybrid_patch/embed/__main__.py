"""Embed a scene: `python -m hybrid_patch.embed run=<run dir> input=<scene.tif | folder> output=<map.tif> [dims=64]`.

Every pixel of a scene of any size through a trained run's encoder, into a Cloud-Optimised GeoTIFF on the scene's grid.
The input is a GeoTIFF, a folder of GeoTIFFs whose names start with dates, or a folder with one of these for each of the
run's modalities, under its name. Stopped and started again, the same command goes on with the parts that are missing.
Exit code: 0 done · 2 bad input · 75 stopped by a signal, 130 by Ctrl-C, and the parts that are done are kept.
"""

import datetime
import os
import re
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hybrid_patch.config.literal import output_file, refuse_flags, take_paths
from hybrid_patch.config.options import wait_briefly
from hybrid_patch.errors import INTERRUPTED, InputError, input_errors_end
from hybrid_patch.runs.stop_signal import stop_requests

if TYPE_CHECKING:
    from hybrid_patch.embed.make_map import Request

USAGE = f"""{__doc__}
  dims=64|full        numbers per pixel (default 64, or the model's width if that is less); full: all of it, as it is
  reduce=pca|random   to principal components of a sample of the scene, or to random orthogonal directions (default pca)
  dtype=float32       or float16 (half precision), or int8 with a scale and offset for each band
  overlap=PIXELS      that neighbouring windows share (default: a quarter of the training's tile)
  batch=N             windows that are embedded together (default: by free memory)
  date=2024-05-31     of an input of one date, where neither its name nor its tag TIFFTAG_DATETIME has it
  nodata=VALUE        what means 'no data' in files that do not say
  missing_bands=error or drop: leave out the band sets that a missing band is in
  resolution=same     or any: take pixels of another size than the training's as they are
  grid=pixel          or patch: one pixel of the map for each output patch of the model
  cog=true            or false: a tiled GeoTIFF without overviews, quicker and smaller
  device=auto         or cpu, cuda
"""
PATHS = ("run", "input", "output")
CHOICES = {
    "reduce": ("pca", "random"),
    "dtype": ("float32", "float16", "int8"),
    "missing_bands": ("error", "drop"),
    "resolution": ("same", "any"),
    "grid": ("pixel", "patch"),
    "cog": ("true", "false"),
    "device": ("auto", "cpu", "cuda"),
}
"""Options of some words each; the first is the default."""
FREE = ("dims", "overlap", "batch", "date", "nodata")
STOPPED = 75


def main() -> None:
    """The command."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(USAGE)
        return
    wait_briefly()
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")  # scenes may be without, overviews are
    with input_errors_end(), stop_requests() as stop:
        run, device, request = read(sys.argv[1:])
        from hybrid_patch.embed.make_map import make_map
        from hybrid_patch.embed.pipeline import Stopped
        from hybrid_patch.embed.trained_model import load

        try:
            seconds = make_map(load(run, device), request, _say, stop)
        except (Stopped, KeyboardInterrupt):
            code = INTERRUPTED if stop.signal in (None, signal.SIGINT) else STOPPED
            _say("stopped; the same command goes on from the parts that are done")
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


def read(arguments: Sequence[str]) -> "tuple[Path, Literal['auto', 'cpu', 'cuda'], Request]":
    """Run, device, and what to make of it, from a command line; raises InputError."""
    refuse_flags(arguments, (*PATHS, *FREE, *CHOICES))
    paths, rest = take_paths(arguments, PATHS)
    for name in PATHS:
        if name not in paths:
            raise InputError(f"{name}=: not given; usage: run=<run dir> input=<scene.tif | folder> output=<map.tif>")
    own: dict[str, str] = {}
    for argument in rest:
        key, _, value = argument.partition("=")
        if key not in (*FREE, *CHOICES):
            raise InputError(f"{argument}: unknown option; takes {', '.join((*PATHS, *FREE, *CHOICES))}")
        if key in own:
            raise InputError(f"{argument}: given twice; before it was {own[key]}")
        if key in CHOICES and value not in CHOICES[key]:
            raise InputError(f"{argument}: takes {', '.join(CHOICES[key])}")
        own[key] = value
    chosen = {key: own.get(key, words[0]) for key, words in CHOICES.items()}
    output = output_file(paths)
    assert output is not None
    if output.exists():
        raise InputError(f"output={output}: exists already; remove it or name another")
    from hybrid_patch.embed.make_map import Request
    from hybrid_patch.embed.scene_files import ReadOptions

    reading = ReadOptions(
        date=_date(own["date"]) if "date" in own else None,
        drop_bands=chosen["missing_bands"] == "drop",
        any_resolution=chosen["resolution"] == "any",
        nodata=_number(own["nodata"]) if "nodata" in own else None,
    )
    request = Request(
        input=Path(paths["input"]),
        output=output,
        dims=0 if own.get("dims") == "full" else _count("dims", own, 1),
        reduce=chosen["reduce"],  # type: ignore[arg-type]
        dtype=chosen["dtype"],  # type: ignore[arg-type]
        overlap=_count("overlap", own, 0),
        batch=_count("batch", own, 1),
        patches=chosen["grid"] == "patch",
        cog=chosen["cog"] == "true",
        reading=reading,
    )
    return Path(paths["run"]), chosen["device"], request  # type: ignore[return-value]


def _count(key: str, own: Mapping[str, str], least: int) -> int | None:
    text = own.get(key)
    if text is None:
        return None
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        full = ", or full" if key == "dims" else ""
        raise InputError(f"{key}={text}: not a whole number from {least}{full}")
    return int(text)


def _date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise InputError(f"date={text}: not a date; write it as 2024-05-31") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"nodata={text}: not a number") from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

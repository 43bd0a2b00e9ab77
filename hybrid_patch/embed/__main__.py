"""Embed a scene: every pixel of it, of any size, through a trained run's encoder, into a GeoTIFF on the scene's grid.

The input is a GeoTIFF, a folder of GeoTIFFs whose names start with dates, or a folder with one of these for each of the
run's modalities, under its name. After a stop, the same command makes the parts that are missing.
Exit code: 0 done · 2 bad input · 75 stopped by a signal, 130 by Ctrl-C, with finished parts kept · 76 its folder of
parts was removed meanwhile.
"""

import os
import signal
import sys
import warnings
from functools import partial

from hybrid_patch.config.command import run_command
from hybrid_patch.embed.options import EmbedOptions
from hybrid_patch.errors import DONE, INTERRUPTED, LOST, STOPPED, require_extra
from hybrid_patch.runs.lock import LostLockError
from hybrid_patch.runs.stop_signal import Stopped, stop_requests


def main() -> None:
    run_command("hybrid-patch embed", __doc__, EmbedOptions, embed)


def embed(options: EmbedOptions) -> int:
    """Write the map, and print how long each phase took. Returns the exit code. Raises InputError."""
    require_extra("geo", "rasterio")
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")  # of a scene that has none
    log = partial(print, file=sys.stderr, flush=True)
    with stop_requests() as stop:
        from hybrid_patch.embed.make_map import make_map
        from hybrid_patch.embed.trained_model import load

        try:
            report = make_map(load(options.run, options.device), options, log, stop)
        except (Stopped, KeyboardInterrupt):
            code = INTERRUPTED if stop.signal in (None, signal.SIGINT) else STOPPED
            log("stopped; run the same command again to make the missing parts")
            sys.stdout.flush()
            os._exit(code)  # GDAL may be in the middle of a copy, which nothing else can end
        except LostLockError as error:
            log(f"error: {error}")
            return LOST
    if report is None:
        print(f"{options.output}: done already")
        return DONE
    total = sum(report.phases.values())
    print(f"{options.output}: {report.bytes / 1e6:,.1f} MB in {total:.1f} s, {report.pixels / total:,.0f} pixels/s")
    for title, seconds in (("phases", report.phases), ("in parallel while embedding", report.work)):
        print(f"{title}: {', '.join(f'{name} {x:.1f} s' for name, x in seconds.items())}")
    return DONE


if __name__ == "__main__":
    main()

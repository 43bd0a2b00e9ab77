"""Maps whose process is killed -9 before its n-th operation on files, for every n, and finished by the next start.

Python's audit events are the operations: opened, renamed, removed and made. Each process is a fork of this one, which
has imported everything and computed nothing.
"""

import os
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from scenes import call

from hybrid_patch.embed import geotiff, make_map, map_parts

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")


def small_parts() -> None:
    """Parts of a single block of 16 pixels."""
    geotiff.MAX_BLOCK_BYTES = map_parts.MAX_STRIP_BYTES = map_parts.MAX_PART_BYTES = 1
    make_map.GDAL["GDAL_CACHEMAX"] = 2**20


def kill_before(number: int, folder: Path) -> None:
    """Kill this process before that operation on a file below a folder."""
    left = number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in EVENTS and str(arguments[0]).startswith(str(folder)):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def start(arguments: list[str], log: Path, number: int | None = None, folder: Path | None = None) -> int:
    """The command in a process of its own, killed before an operation; its exit code, or minus the signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with log.open("a") as file, redirect_stdout(file):
        if number is not None and folder is not None:
            kill_before(number, folder)
        code, printed = call(*arguments)
        file.write(printed)
    os._exit(code)


def main(folder: Path, run: Path, scene: Path) -> None:
    """Print what differs, and how many operations there are."""
    small_parts()
    arguments = [f"run={run}", f"input={scene}", "dims=4", "dtype=int8", "batch=4"]
    whole, number, log = folder / "whole.tif", 0, folder / "log"
    assert start([*arguments, f"output={whole}"], log) == 0, log.read_text()
    while True:
        place = folder / str(number)
        place.mkdir()
        output = place / "map.tif"
        killed = start([*arguments, f"output={output}"], log, number, place)
        again = start([*arguments, f"output={output}"], log)
        same = output.exists() and output.read_bytes() == whole.read_bytes()
        if again or not same or [path.name for path in place.iterdir()] != ["map.tif"]:
            print(
                f"killed before operation {number}: {again}, {same}, {list(place.iterdir())}, {log.read_text()[-500:]}"
            )
        number += 1
        if killed == 0:
            break
        assert killed == -signal.SIGKILL
    print(f"{number} operations")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

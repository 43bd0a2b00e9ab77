"""A stopped map is resumed, whatever stopped it; memory and disk are bounded."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import killed_maps
import pytest
from scenes import DATE, SMALL_PARTS, call, command, embed, make_run, read, values, write

pytestmark = pytest.mark.faults

SLOWLY = """
write = geotiff.MapFile.write_part
def slow(*arguments):
    time.sleep({})
    write(*arguments)
geotiff.MapFile.write_part = slow
"""
PRINT_PEAK = """
import atexit
atexit.register(lambda: print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 4 parts, where each is a block."""
    return write(tmp_path_factory.mktemp("scene") / f"{DATE}.tif", values(380, 270))


def parts_of(output: Path) -> list[Path]:
    return sorted(output.with_name(output.name + ".parts").glob("part_????????_????????.tif"))


def start(arguments: list[str], parts: int, output: Path, sleep: float = 0.2) -> "subprocess.Popen[str]":
    """The command, slowly, until it has written some parts."""
    process = subprocess.Popen(
        command(*arguments, before=SMALL_PARTS + SLOWLY.format(sleep)),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    ready = output.with_name(output.name + ".parts") / "job.json"
    while (len(parts_of(output)) < parts or not ready.exists()) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    return process


def test_a_killed_map_is_resumed(run: Path, scene: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.tif", tmp_path / "map.tif"
    arguments = [f"run={run}", f"input={scene}", "dims=8", "dtype=int8"]
    done = embed(*arguments, f"output={whole}", before=SMALL_PARTS)
    assert done.returncode == 0, done.stderr
    process = start([*arguments, f"output={output}"], 2, output)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    parts = parts_of(output)
    before = [path.stat().st_mtime_ns for path in parts]
    assert not output.exists()
    leave = "map_parts.PartsFolder.remove = lambda self: None\n"
    done = embed(*arguments, f"output={output}", before=SMALL_PARTS + leave)
    assert done.returncode == 0, done.stderr
    assert f"{len(parts)} of 4 parts are done" in done.stderr
    assert [path.stat().st_mtime_ns for path in parts] == before
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "map.tif.parts", "whole.tif"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_keeps_what_is_done(run: Path, scene: Path, tmp_path: Path, number: int, code: int) -> None:
    output = tmp_path / "map.tif"
    process = start([f"run={run}", f"input={scene}", f"output={output}"], 1, output)
    process.send_signal(number)
    assert process.wait() == code
    assert process.stderr is not None
    assert process.stderr.read().splitlines()[-1] == "stopped; run the same command again to make the missing parts"
    assert parts_of(output)
    assert not output.exists()


def test_parts_of_another_job_are_refused(run: Path, scene: Path, tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    process = start([f"run={run}", f"input={scene}", f"output={output}", "dims=8"], 1, output)
    process.kill()
    process.wait()
    code, stderr = call(f"run={run}", f"input={scene}", f"output={output}", "dims=9")
    assert code == 2
    assert "parts of another job: dims was 8, is 9" in stderr
    assert len(stderr.splitlines()) == 1
    assert parts_of(output)


def test_two_at_once_are_refused(run: Path, scene: Path, tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    arguments = [f"run={run}", f"input={scene}", f"output={output}"]
    process = start(arguments, 0, output, sleep=20)
    second = embed(*arguments)
    process.kill()
    process.wait()
    assert second.returncode == 2
    assert "another process is working on it" in second.stderr


def test_memory_does_not_grow_with_the_scene(run: Path, tmp_path: Path) -> None:
    """Peak resident size in a process of its own; the taller scene's numbers alone are 59 MB more."""
    peaks = []
    for height in (1200, 3000):
        folder = tmp_path / str(height)
        scene = write(folder / f"{DATE}.tif", values(height, 256))
        before = (
            SMALL_PARTS + PRINT_PEAK + 'make_map.GDAL |= {"GDAL_CACHEMAX": 2**23, "GDAL_MAX_DATASET_POOL_SIZE": 4}\n'
        )
        done = embed(f"run={run}", f"input={scene}", f"output={folder / 'map.tif'}", "batch=8", before=before)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 30


def test_a_disk_that_is_too_small_is_refused_at_the_start(
    run: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1_000_000))
    code, stderr = call(f"run={run}", f"input={scene}", f"output={tmp_path / 'map.tif'}")
    assert code == 2
    assert "GB are free" in stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("most", [200_000, 700_000])
def test_a_disk_that_is_full_in_the_middle(run: Path, scene: Path, tmp_path: Path, most: int) -> None:
    """The disk is simulated by a limit on a file's size: of a part, and of the copy."""
    output = tmp_path / "map.tif"
    arguments = [f"run={run}", f"input={scene}", f"output={output}"]
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))\n"
    done = embed(*arguments, before=SMALL_PARTS + limit)
    assert done.returncode == 2
    assert "no space left on disk" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not output.exists()
    done = embed(*arguments, before=SMALL_PARTS)
    assert done.returncode == 0, done.stderr
    assert read(output).shape == (32, 380, 270)


@pytest.mark.fire
@pytest.mark.timeout(1200)
def test_killed_before_any_operation_on_files(run: Path, tmp_path: Path) -> None:
    """The next start makes the same map, and leaves nothing else."""
    scene = write(tmp_path / "scene" / f"{DATE}.tif", values(20, 30))
    folder = tmp_path / "maps"
    folder.mkdir()
    helper = Path(killed_maps.__file__)
    done = subprocess.run(
        [sys.executable, str(helper), *map(str, (folder, run, scene))],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d\d+ operations\n", done.stdout), done.stdout


@pytest.mark.fire
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment(run: Path, scene: Path, tmp_path: Path, seed: int) -> None:
    """GDAL's copy into one file too, which is no operation of Python's."""
    whole, random = tmp_path / "whole.tif", Random(seed)
    arguments = [f"run={run}", f"input={scene}", "dims=8", "dtype=int8"]
    assert embed(*arguments, f"output={whole}", before=SMALL_PARTS).returncode == 0
    for number in range(5):
        output = tmp_path / f"{number}.tif"
        process = start([*arguments, f"output={output}"], 4 if number % 2 else 0, output, sleep=0)
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        process.communicate()
        done = embed(*arguments, f"output={output}", before=SMALL_PARTS)
        assert done.returncode == 0, done.stderr
        assert output.read_bytes() == whole.read_bytes()


def test_a_start_after_a_kill_in_the_copy_has_all_parts(run: Path, scene: Path, tmp_path: Path) -> None:
    """GDAL would delete them with the VRT that names them."""
    output = tmp_path / "map.tif"
    arguments = [f"run={run}", f"input={scene}", f"output={output}", "dims=8"]
    die = "import os\ngeotiff.MapFile.copy = lambda *_: os.kill(os.getpid(), 9)\n"
    assert embed(*arguments, before=SMALL_PARTS + die).returncode == -signal.SIGKILL
    done = embed(*arguments, before=SMALL_PARTS)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 parts are done" in done.stderr


def test_a_map_that_is_done_is_left_alone(run: Path, scene: Path, tmp_path: Path) -> None:
    """A start that was killed after it had named the map left its folder, or not."""
    output = tmp_path / "map.tif"
    arguments = [f"run={run}", f"input={scene}", f"output={output}", "dims=8"]
    die = "import os\nmap_parts.PartsFolder.remove = lambda self: os.kill(os.getpid(), 9)\n"
    assert embed(*arguments, before=SMALL_PARTS + die).returncode == -signal.SIGKILL
    made = output.stat().st_mtime_ns
    for _ in range(2):
        done = embed(*arguments, before=SMALL_PARTS)
        assert (done.returncode, done.stdout) == (0, f"{output}: done already\n"), done.stderr
        assert list(tmp_path.iterdir()) == [output]
    assert output.stat().st_mtime_ns == made
    code, stderr = call(*arguments[:-1], "dims=9")
    assert (code, stderr) == (2, f"error: output={output}: exists already; remove it or name another\n")


@pytest.mark.fire
def test_a_map_that_was_suspended_and_made_by_another(run: Path, scene: Path, tmp_path: Path) -> None:
    """Nobody takes it over while its process lives; once a person has removed its folder, it writes nothing more."""
    output = tmp_path / "map.tif"
    arguments = [f"run={run}", f"input={scene}", f"output={output}", "dims=8"]
    process = start(arguments, 1, output, sleep=1)
    process.send_signal(signal.SIGSTOP)
    refused = embed(*arguments, before=SMALL_PARTS)
    assert refused.returncode == 2
    assert "another process is working on it" in refused.stderr
    shutil.rmtree(f"{output}.parts")
    assert embed(*arguments, before=SMALL_PARTS).returncode == 0
    made = output.stat().st_mtime_ns
    process.send_signal(signal.SIGCONT)
    assert "was removed while this process was making its parts" in process.communicate()[1]
    assert process.returncode == 76
    assert list(tmp_path.iterdir()) == [output]
    assert output.stat().st_mtime_ns == made

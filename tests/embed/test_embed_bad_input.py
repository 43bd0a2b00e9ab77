"""Bad input: one line, exit code 2, and nothing left on the disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
from odd_files import put
from scenes import BANDS, DATE, TILE, call, make_run, values, write

from hybrid_patch.data.source import Window
from hybrid_patch.embed import map_parts
from hybrid_patch.embed.scene import SceneReader

NAME = f"{DATE}.tif"
IMAGE = values(40, 40)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


def without(*bands: str) -> Callable[[Path], Path]:
    left = [i for i, band in enumerate(BANDS) if band not in bands]
    return lambda folder: write(folder / NAME, IMAGE[left], [BANDS[i] for i in left])


def two_grids(folder: Path) -> Path:
    write(folder / "2024-01-01.tif", IMAGE)
    write(folder / "2024-02-01.tif", values(40, 41))
    return folder


def twice(folder: Path) -> Path:
    write(folder / "2024-01-01.tif", IMAGE)
    write(folder / "2024-01-01_b.tif", IMAGE)
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def text(folder: Path) -> Path:
    folder.mkdir()
    (folder / NAME).write_text("this is no image")
    return folder / NAME


def odd(name: str) -> Callable[[Path], Path]:
    """An input with a fifo, a link or a device in its place."""

    def make(folder: Path) -> Path:
        folder.mkdir()
        return put(name, folder / NAME)

    return make


SCENES: dict[str, tuple[Callable[[Path], Path], list[str], str]] = {
    "missing band": (without("B8A"), [], "has no band 'B8A' of modality 'sentinel2_l2a'; it has B02, B03"),
    "missing band may be dropped": (without("B8A"), [], "missing_bands=drop leaves out the band sets that it is in"),
    "no band set left": (without("B02", "B05", "B09"), ["missing_bands=drop"], "so that nothing is left"),
    "fewer nameless bands": (lambda f: write(f / NAME, IMAGE[:5], ()), [], "it has band_1, band_2, band_3"),
    "resolution": (
        lambda f: write(f / NAME, IMAGE, pixel=20),
        [],
        "has pixels of 20 m, but the run was trained on sentinel2_l2a of 10 m; resample it",
    ),
    "all nodata": (lambda f: write(f / NAME, IMAGE * 0 - 9999), [], "nothing but 'no data' in the whole scene"),
    "no date": (lambda f: write(f / "scene.tif", IMAGE), [], "no date in its name (2024-05-31)"),
    "two grids": (two_grids, [], "but"),
    "one day twice": (twice, [], "another file has the same date"),
    "empty folder": (empty, [], "holds no .tif file"),
    "no image": (text, [], "2024-05-31.tif: "),
    "no file": (lambda f: f / "nowhere.tif", [], "nowhere.tif: no such file or folder"),
    "a fifo": (odd("fifo"), [], "a fifo or device, not a file"),
    "a device": (odd("device"), [], "a fifo or device, not a file"),
    "a link to itself": (odd("link_to_itself"), [], "a link to itself"),
    "a folder with a fifo": (lambda f: odd("fifo")(f).parent, [], "a fifo or device, not a file"),
    "a folder with a link to nothing": (lambda f: odd("link_to_nothing")(f).parent, [], NAME),
    "dims": (lambda f: write(f / NAME, IMAGE), ["dims=33"], "dims=33: the model's width is 32; takes 1 to 32, or full"),
    "dims word": (lambda f: write(f / NAME, IMAGE), ["dims=many"], "dims=many: must be a whole number or 'full'"),
    "overlap": (lambda f: write(f / NAME, IMAGE), ["overlap=32"], "overlap=32: takes 0 to 31 pixels"),
    "dtype": (lambda f: write(f / NAME, IMAGE), ["dtype=uint8"], "dtype=uint8: must be 'float32', 'float16' or 'int8'"),
    "date": (lambda f: write(f / NAME, IMAGE), ["date=31.5."], "date=31.5.: must be a date, like 2024-05-31"),
    "option": (lambda f: write(f / NAME, IMAGE), ["cogs=true"], "cogs=true: unknown key; takes: run, input"),
    "twice": (lambda f: write(f / NAME, IMAGE), ["dims=3", "dims=4"], "dims=4: given twice; before it was 3"),
}


@pytest.mark.parametrize("case", SCENES)
def test_one_line(run: Path, tmp_path: Path, case: str) -> None:
    make, options, message = SCENES[case]
    scene = make(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    code, stderr = call(f"run={run}", f"input={scene}", f"output={tmp_path / 'map.tif'}", *options)
    assert code == 2
    assert stderr.splitlines()[-1].startswith("error: ")
    assert message in stderr.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_output_exists(run: Path, tmp_path: Path) -> None:
    scene, output = write(tmp_path / NAME, IMAGE), tmp_path / "map.tif"
    output.write_text("mine")
    code, stderr = call(f"run={run}", f"input={scene}", f"output={output}")
    assert (code, stderr) == (2, f"error: output={output}: exists already; remove it or name another\n")
    assert output.read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "nowhere"}, "run=nowhere: not a run directory"),
        ({"output": "nowhere/map.tif"}, "output=nowhere/map.tif: there is no folder nowhere"),
        ({"input": None}, "input: missing; give input=SCENE"),
    ],
)
def test_paths(run: Path, tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    scene = write(tmp_path / NAME, IMAGE)
    paths = {"run": str(run), "input": str(scene), "output": str(tmp_path / "map.tif")} | changes
    code, stderr = call(*(f"{key}={value}" for key, value in paths.items() if value is not None))
    assert code == 2
    assert len(stderr.splitlines()) == 1
    assert message in stderr


def test_a_folder_that_is_in_the_way_is_left_alone(run: Path, tmp_path: Path) -> None:
    scene = write(tmp_path / NAME, IMAGE)
    other = tmp_path / "map.tif.parts"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    code, stderr = call(f"run={run}", f"input={scene}", f"output={tmp_path / 'map.tif'}")
    assert code == 2
    assert "is in the way and not of this command (holds mine.txt)" in stderr
    assert (other / "mine.txt").read_text() == "mine"


def test_a_file_that_is_broken_in_the_middle(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the sample of the scene did not look: parts that were begun are removed again."""
    monkeypatch.setattr(map_parts, "MAX_PART_BYTES", 1)
    monkeypatch.setattr(map_parts, "MAX_STRIP_BYTES", 1)
    monkeypatch.setattr(SceneReader, "windows_with_data", lambda self, *_: iter([self.read(Window(0, 0, TILE, TILE))]))
    scene = write(tmp_path / NAME, values(600, 60))
    with scene.open("r+b") as file:
        file.truncate(scene.stat().st_size * 3 // 4)
    code, stderr = call(f"run={run}", f"input={scene}", f"output={tmp_path / 'map.tif'}")
    assert code == 2
    assert f"error: {scene}: " in stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [scene]


def test_other_resolution_and_date_by_option(run: Path, tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", IMAGE, pixel=20)
    options = ("resolution=any", f"date={DATE}")
    assert call(f"run={run}", f"input={scene}", f"output={tmp_path / 'map.tif'}", *options)[0] == 0

"""What a data folder may hold in the place of a file: a line that names it, never a traceback and never a wait."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import olmoearth_folder
import pytest
import raster_folders
from building import TINY
from odd_files import LIMIT, NO_FILES, ODDITIES, put, watched

from hybrid_patch.config.data_options import DataOptions
from hybrid_patch.data.description import describe
from hybrid_patch.data.source import BrokenSampleError, Window, open_source
from hybrid_patch.errors import InputError, printable

BROKEN, ENDS, IGNORED = "broken", "error", "ok"
"""One sample is broken and named; one line names the file; the file is none of the source's."""


def rasters(root: Path) -> DataOptions:
    """The options for eight tiles."""
    raster_folders.make_tiles(root)
    return raster_folders.config(root)


def olmoearth(root: Path) -> DataOptions:
    """The options for eight samples."""
    olmoearth_folder.make_folder(root)
    return olmoearth_folder.config(root)


def statistics(root: Path) -> DataOptions:
    """The same, with given statistics."""
    olmoearth_folder.make_folder(root)
    (root / "computed.json").write_text("{}")
    (root / "predefined.json").write_text('{"x": 1}')
    return olmoearth_folder.config(root, statistics=str(root))


def outcome(options: DataOptions) -> str:
    """What reading everything of a source comes to."""
    try:
        options.fingerprint()
        source = open_source(options)
        broken = []
        for index in source.indices("train").tolist() + source.indices("val").tolist():
            try:
                height, width, _ = source.shape(index)
                source.read(index, Window(0, 0, height, width), source.indices("train")[:1] * 0)
            except BrokenSampleError as error:
                broken.append(f"{BROKEN}: {error}")
        describe(source)
    except InputError as error:
        return f"{ENDS}: {printable(str(error))}"
    return "\n".join(broken) or IGNORED


PLACES = {
    "a tile": (rasters, "images/t1.tif", BROKEN),
    "the first tile": (rasters, "images/t0.tif", BROKEN),
    "a label": (rasters, "labels/t1.tif", BROKEN),
    "index.csv": (rasters, "index.csv", ENDS),
    "index.parquet": (rasters, "index.parquet", ENDS),
    "meta.json": (rasters, "meta.json", ENDS),
    "another file": (rasters, "images/x.txt", IGNORED),
    "a sample": (olmoearth, "sample_0.h5", BROKEN),
    "sample_metadata.csv": (olmoearth, "sample_metadata.csv", ENDS),
    "computed.json": (statistics, "computed.json", ENDS),
    "another sample": (olmoearth, "x.h5", IGNORED),
}
SAMPLE = {("a tile", "fifo"), ("a sample", "fifo"), ("meta.json", "nested"), ("index.csv", "link_to_itself")}
CASES = [
    pytest.param(place, oddity, marks=[] if (place, oddity) in SAMPLE else pytest.mark.fire, id=f"{place}-{oddity}")
    for place in PLACES
    for oddity in ODDITIES
    if not (place in ("a tile", "the first tile", "a label") and oddity in ("folder", "link_to_its_folder"))
]


@pytest.mark.parametrize(("place", "oddity"), CASES)
def test_in_the_place_of_a_file(tmp_path: Path, place: str, oddity: str) -> None:
    make, name, expected = PLACES[place]
    options = make(tmp_path)
    path = put(oddity, tmp_path / name)
    text = watched(lambda: outcome(options))
    assert text.startswith(expected), text
    assert "\n" not in text
    assert expected == IGNORED or str(path) in text


@pytest.mark.fire
@pytest.mark.parametrize("oddity", ["fifo", "terminal", "link_to_itself"])
@pytest.mark.parametrize("ending", [".tif.aux.xml", ".tif.msk", ".aux", ".xml", ".tif.ovr", ".tfw"])
def test_beside_a_tile(tmp_path: Path, oddity: str, ending: str) -> None:
    options = rasters(tmp_path)
    path = put(oddity, tmp_path / f"images/t1{ending}")
    assert watched(lambda: outcome(options)) in (IGNORED, f"{BROKEN}: {path}: {'a fifo or device, not a file'}")


@pytest.mark.parametrize("make", [rasters, pytest.param(olmoearth, marks=pytest.mark.fire)])
def test_a_file_becomes_a_fifo_while_it_is_read(tmp_path: Path, make: Callable[[Path], DataOptions]) -> None:
    options = make(tmp_path)
    source = open_source(options)
    index = int(source.indices("train")[0])
    source = pickle.loads(pickle.dumps(source))  # as a worker has it, without open files
    path = Path(source.name(index))
    path.unlink()
    os.mkfifo(path)

    def read() -> str:
        try:
            source.read(index, Window(0, 0, 8, 8), source.indices("train")[:1] * 0)
        except BrokenSampleError as error:
            return str(error)
        return "read"

    assert watched(read) == f"{path}: a fifo or device, not a file"


@pytest.mark.parametrize("name", ["fifo", "link_to_nothing", "link_to_itself"])
def test_labels_that_are_neither_folder_nor_file_are_not_left_out_in_silence(tmp_path: Path, name: str) -> None:
    options = rasters(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "others")
    path = put(name, tmp_path / "labels")
    assert watched(lambda: outcome(options)).startswith(f"{ENDS}: damaged: {path}, a ")


@pytest.mark.fire
@pytest.mark.parametrize("command", ["data describe", "train"])
@pytest.mark.parametrize("name", ["images/t0.tif", "images/t1.tif", "index.csv", "labels"])
def test_a_command_ends_in_one_line(tmp_path: Path, command: str, name: str) -> None:
    raster_folders.make_tiles(tmp_path / "data")
    path = tmp_path / "data" / name
    if path.is_dir():
        path.rename(tmp_path / "others")
    put("fifo", path)
    options = ["data=rasters", f"data.root={tmp_path / 'data'}", "data.tile=16"]
    if command == "train":
        tiny = [word for word in TINY if not word.startswith("data.")]
        options = [*tiny, *options, "data.val_share=0", "trainer.steps=30", f"run_dir={tmp_path / 'run'}"]
    line = [sys.executable, "-m", "hybrid_patch", *command.split(), *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    assert "Traceback" not in done.stderr
    assert f"{path}" in done.stdout + done.stderr
    assert "a fifo or device, not a file" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.fire
@pytest.mark.parametrize(
    "text",
    [
        "file,split\n" + "t0.tif,train\n" * 10**6,
        "file,split\n" + "".join(f"t{number}.tif,train\n" for number in range(5 * 10**5)) * 2,
        "path,sensor\n" + "".join(f"images/t{number}.tif,images\n" for number in range(5 * 10**5)) * 2,
    ],
    ids=["one tile", "half of them", "paths"],
)
def test_an_index_of_a_million_doubled_lines(tmp_path: Path, text: str) -> None:
    options = rasters(tmp_path)
    (tmp_path / "index.csv").write_text(text)
    line = 3 if text.count("t1.tif") == 0 else 500_002
    listed = "images/t0.tif" if text.startswith("path") else "t0.tif"
    answer = watched(lambda: outcome(options))
    assert answer == f"{ENDS}: {tmp_path / 'index.csv'}: line {line}: {listed} is listed twice"


@pytest.mark.fire
@pytest.mark.parametrize(
    "text",
    [
        "file\n" + "x" * 2 * 10**8,
        'file,split\n"t0.tif,train\nt1.tif,train\n',
        'file\n"t0.tif\nt1.tif\n',
        "file\n\0\0,\0",
    ],
    ids=["a line of 200 million letters", "quotes that never close", "of one column", "NUL"],
)
def test_an_index_that_is_no_table(tmp_path: Path, text: str) -> None:
    options = rasters(tmp_path)
    (tmp_path / "index.csv").write_text(text)
    answer = watched(lambda: outcome(options))
    assert "\n" not in answer
    assert answer.startswith((f"{ENDS}: {tmp_path}/", BROKEN)), answer[:300]


NAMES = {"a line break": b"t\n1", "not UTF-8": b"t\xff1", "an escape": b"t\x1b[31m", "255 bytes": b"t" * 251}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "a line break" else pytest.mark.fire) for name in NAMES]
)
def test_names_of_tiles(tmp_path: Path, name: str) -> None:
    options = rasters(tmp_path)
    tile = Path(os.fsdecode(NAMES[name] + b".tif"))
    for folder in ("images", "labels"):
        (tmp_path / folder / "t1.tif").rename(tmp_path / folder / tile)
    shown = str(tile).encode("unicode_escape").decode()
    text = watched(lambda: outcome(options))
    assert text == IGNORED or text.startswith(f"{BROKEN}: {tmp_path}/images/{shown}: "), text
    (tmp_path / "images" / tile).write_bytes(b"torn")
    assert watched(lambda: outcome(options)).startswith(f"{BROKEN}: {tmp_path}/images/{shown}: ")


def test_the_odd_files_are_told_from_files(tmp_path: Path) -> None:
    for oddity in NO_FILES:
        put(oddity, tmp_path / oddity)
        assert not (tmp_path / oddity).is_file()

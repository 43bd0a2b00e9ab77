"""A data source is a package and a yaml file: the example of docs/extending.md, as it is printed there."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from olmoearth_folder import config as olmoearth
from raster_folders import config as rasters

from hybrid_patch.data.source import open_source
from hybrid_patch.errors import InputError

PAGE = Path(__file__).parents[2] / "docs/extending.md"
PROGRAM = """
import sys
from pathlib import Path
import hybrid_patch.data

folder = sys.argv[1]
hybrid_patch.data.__path__.append(folder)

from hybrid_patch.config.compose import compose
from hybrid_patch.config.sources import Sources
from hybrid_patch.config.recipe import run_id
from hybrid_patch.errors import InputError

def composed(*arguments):
    return compose(["data=arrays", *arguments], Sources(extra=Path(folder) / "conf"))

def message(*arguments):
    try:
        composed(*arguments)
    except InputError as error:
        return str(error)

assert message("data.root=/no/such").startswith("data.root=/no/such: there is no such folder; ")
assert message(f"data.root={folder}", "data.rot=1").startswith("data.rot=1: unknown key; arrays takes: name, tile")
assert "takes: arrays, olmoearth" in message("data.name=array", f"data.root={folder}")
config = composed(f"data.root={folder}", "trainer.batch_size=2", "patch=hybrid")
assert "_arrays_" in run_id(config)
assert "torch" not in sys.modules

from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.data.source import Source, open_source

source = open_source(config.data)
assert isinstance(source, Source)
batch = TrainingSteps(source, config, 0, 1)[0]
assert batch.pixels["optical"].shape == (2, 16, 16, 1, 2)
assert batch.valid["optical"].all()
assert [round(mean) for mean in source.modalities["optical"].mean] == [5, 5]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    section = PAGE.read_text().partition("\n## A data source\n")[2].partition("\n## ")[0]
    for language, path in (("python", "arrays/__init__.py"), ("yaml", "conf/data/arrays.yaml")):
        block = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
        assert block is not None
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(block[1])
    rng = np.random.default_rng(0)
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", rng.normal(5, 1, (24, 20, 2)).astype(np.float32))
    return tmp_path


@pytest.mark.full
def test_the_example_of_the_documentation(folder: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_missing_library_is_one_line_that_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for options, extra in ((rasters(tmp_path), "geo"), (olmoearth(tmp_path), "olmoearth")):
        with pytest.raises(InputError, match=rf"pip install 'hybrid_patch\[{extra}\]'$"):
            open_source(options)

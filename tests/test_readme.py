"""Every command of README.md and of docs/quickstart.md, in order, by a newcomer with tiles of their own.

Trainings are shrunk.
"""

import re
import shlex
from pathlib import Path

import pytest
from building import TINY
from pages import blocks, commands, python
from raster_folders import make_tiles, ramp, write

ROOT = Path(__file__).parent.parent
README, QUICKSTART = ROOT / "README.md", ROOT / "docs" / "quickstart.md"
QUICK = (
    "trainer.steps=2",
    *(word for word in TINY if not word.startswith(("evaluation=", "model.encoder=", "data.scene", "data.timesteps"))),
    "model.encoder={width:64,depth:1,heads:4,mlp_ratio:2.0}",
)
EVALUATION = ("evaluation.tiles=2", "evaluation.train_pixels=60", "evaluation.knn_pixels=0", "evaluation.baselines=[]")
SWEEP = (*QUICK, *EVALUATION, "cluster.slots=2", "seed=0", "upsampler=bilinear,guided")
SHRUNK = {
    "train": (*QUICK, *EVALUATION),
    "finetune": ("steps=2", *EVALUATION),
    "launch submit": SWEEP,
    "launch run": SWEEP,
    "evaluate": EVALUATION,
    "plan": (*QUICK[1:], "model=nano"),
}
"""Overrides that a command gets besides, so that it takes a moment."""
ELSEWHERE = ("make", "pip", ".")
"""Commands that are not ours."""

pytestmark = pytest.mark.timeout(600)


def quickly(command: str) -> list[str]:
    """The words of a command, shrunk: the later value of a key wins."""
    words = shlex.split(command)[1:]
    name = next((name for name in SHRUNK if words[: len(name.split())] == name.split()), None)
    more = SHRUNK[name] if name else ()
    keys = {word.partition("=")[0] for word in more}
    return [*(word for word in words if word.partition("=")[0] not in keys), *more]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the newcomer works, with tiles and a scene of their own."""
    make_tiles(tmp_path / "my" / "tiles")
    write(tmp_path / "my" / "scene.tif", ramp(3, 40, 50), ("blue", "green", "red"))
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [pytest.param(README, marks=pytest.mark.slow), pytest.param(QUICKSTART, marks=pytest.mark.full)],
    ids=["README", "quickstart"],
)
def test_every_command_of_the_page(page: Path, folder: Path) -> None:
    for command in commands(page):
        first, *rest = command.split()
        if first == "make":
            assert f"\n{rest[0]}:" in (ROOT / "Makefile").read_text()
        if first not in ELSEWHERE:
            assert first == "hybrid-patch", command
            python(folder, ["-m", "hybrid_patch", *quickly(command)])
    (code,) = blocks(page, "python")
    image = "import numpy\nimage = numpy.zeros((16, 24, 1, 3), 'float32')\n"
    assert python(folder, ["-c", f"{image}{code}\nprint(embedding.shape)"]).strip() == "(16, 24, 64)"


def test_every_make_target_that_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", README.read_text()):
        assert re.search(rf"(?m)^{target}\b.*:", makefile), target

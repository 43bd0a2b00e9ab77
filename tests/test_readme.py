"""Every command of README.md, run in its order by a newcomer with data of their own; trainings are shrunk."""

import re
import shlex
from pathlib import Path

import pytest
from building import TINY
from pages import blocks, commands, python
from raster_folders import make_tiles, ramp, write

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
QUICK = (
    "trainer.steps=2",
    *(word for word in TINY if not word.startswith(("evaluation=", "model.encoder="))),
    "model.encoder={width:64,depth:1,heads:4,mlp_ratio:2.0}",
)
EVALUATION = ("evaluation.tiles=2", "evaluation.train_pixels=60", "evaluation.knn_pixels=0", "evaluation.baselines=[]")
TWO_MEMBERS = ("seed=0", "upsampler=bilinear,guided")
SYNTHETIC = "data.scene"
SHRUNK = {
    "train": (*QUICK, *EVALUATION),
    "launch submit": (*QUICK, *EVALUATION, "cluster.slots=2"),
    "evaluate": EVALUATION,
    "benchmark": TINY,
}
"""Overrides that a command gets besides, so that it takes a moment."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def quickly(command: str) -> list[str]:
    """The words of a command, shrunk."""
    words = shlex.split(command)[1:]
    name = next((name for name in SHRUNK if words[: len(name.split())] == name.split()), None)
    more = SHRUNK[name] if name and "--cfg" not in words else ()
    if "+sweep=upsampler" in words:
        more = (*more, *TWO_MEMBERS)
    if "data=rasters" in words:
        more = tuple(word for word in more if not word.startswith((SYNTHETIC, "data.timesteps")))
    words = ["rounds=2" if word.startswith("rounds=") else word for word in words]
    return [*words, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the newcomer works, with tiles and a scene of their own."""
    folder = tmp_path_factory.mktemp("newcomer")
    make_tiles(folder / "my" / "tiles")
    write(folder / "my" / "scene.tif", ramp(3, 40, 50), ("blue", "green", "red"))
    return folder


def test_every_command_of_the_readme(folder: Path) -> None:
    for command in commands(README):
        if command.startswith("make "):
            assert f"\n{command.split()[1]}:" in (ROOT / "Makefile").read_text()
            continue
        if command.startswith(". "):
            continue
        assert command.startswith("hybrid-patch "), command
        python(folder, ["-m", "hybrid_patch", *quickly(command)])
    code = "\n".join(blocks(README, "python"))
    image = "import numpy\nimage = numpy.zeros((16, 24, 1, 12), 'float32')\n"
    assert python(folder, ["-c", f"{image}{code}\nprint(embedding.shape)"]).strip() == "(16, 24, 64)"


def test_every_make_target_that_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", README.read_text()):
        assert re.search(rf"(?m)^{target}\b.*:", makefile), target

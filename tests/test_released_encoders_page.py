"""Every command of docs/released-encoders.md, on the released weights and real tiles where they are at hand."""

import shlex
from pathlib import Path

import pytest
from pages import blocks, commands, python

PAGE = Path(__file__).parent.parent / "docs" / "released-encoders.md"
SHRUNK = ("trainer.steps=2", "trainer.batch_size=1", "logger=none", "evaluation=none", "runtime.threads=1")
TEACHER = ("target.windows=4", "target.window=8")

pytestmark = pytest.mark.timeout(600)


@pytest.mark.full
def test_every_command_of_the_page(tmp_path: Path, released_galileo: Path, shared_data: Path) -> None:
    (tmp_path / "galileo_nano").symlink_to(released_galileo)
    (tmp_path / "tiles").symlink_to(shared_data / "terramind_tiles")
    assert len(commands(PAGE)) == 4
    for command in commands(PAGE):
        words = shlex.split(command)[1:]
        if words[0] == "train":
            words += SHRUNK
        if "experiment=released_encoder" in words:
            words += TEACHER
        python(tmp_path, ["-m", "hybrid_patch", *words], timeout=300)
    (code,) = blocks(PAGE, "python")
    image = "import numpy\nimage = numpy.full((40, 24, 1, 12), 1500, 'float32')\n"
    assert python(tmp_path, ["-c", f"{image}{code}\nprint(embedding.shape)"]).strip() == "(40, 24, 128)"

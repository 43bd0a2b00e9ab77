"""Every command of docs/released-encoders.md, on the released weights and real tiles where they are at hand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from launching import variables

PAGE = Path(__file__).parent.parent / "docs" / "released-encoders.md"
SHRUNK = ("trainer.steps=2", "trainer.batch_size=1", "logger=none", "evaluation=none", "runtime.threads=1")
TEACHER = ("target.windows=4", "target.window=8")

pytestmark = pytest.mark.timeout(600)


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", PAGE.read_text())


def test_every_command_of_the_page(tmp_path: Path, released_galileo: Path, shared_data: Path) -> None:
    (tmp_path / "galileo_nano").symlink_to(released_galileo)
    (tmp_path / "tiles").symlink_to(shared_data / "terramind_tiles")
    commands = [line for line in "\n".join(blocks("sh")).replace("\\\n", " ").splitlines() if line]
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command)[1:]
        if words[0] == "train":
            words += SHRUNK
        if "experiment=released_encoder" in words:
            words += TEACHER
        done = subprocess.run(
            [sys.executable, "-m", "hybrid_patch", *words],
            cwd=tmp_path,
            env=variables(tmp_path, {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    (python,) = blocks("python")
    image = "import numpy\nimage = numpy.full((40, 24, 1, 12), 1500, 'float32')\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{image}{python}\nprint(embedding.shape)"],
        cwd=tmp_path,
        env=variables(tmp_path, {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "(40, 24, 128)"

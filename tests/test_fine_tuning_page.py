"""Every command of docs/fine-tuning.md, as a reader runs it but on small scenes and for a few steps."""

import shlex
from pathlib import Path

import pytest
from building import TINY
from pages import blocks, commands, python

PAGE = Path(__file__).parent.parent / "docs" / "fine-tuning.md"
SMALL = ("trainer.steps=2", "evaluation.tiles=2", "evaluation.pictures=0", "evaluation.knn_pixels=0")
PRETRAINED = (*TINY, "data.scenes=8", "trainer.steps=2")
TUNED = (*SMALL, "evaluation.train_pixels=200", "trainer.batch_size=2", "logger=none", "runtime.threads=1")

pytestmark = pytest.mark.timeout(900)


@pytest.mark.full
def test_every_command_of_the_page(tmp_path: Path) -> None:
    assert len(commands(PAGE)) == 6
    for command in commands(PAGE):
        words = shlex.split(command)[1:]
        if words[0] == "train":
            words += PRETRAINED
        elif "-m" in words:  # two of its 24 members
            shortened = {"fraction": "fraction=0.2,1.0", "freeze": "freeze=all", "seed": "seed=0"}
            words = [shortened.get(word.partition("=")[0], word) for word in words] + [*TUNED]
        elif words[0] == "finetune":
            words += [*TUNED, "evaluation=none"]
        printed = python(tmp_path, ["-m", "hybrid_patch", *words], timeout=600)
        assert "Traceback" not in printed
    page = (tmp_path / "labels.html").read_text()
    assert "fine-tuned head" in page
    (code,) = blocks(PAGE, "python")
    said = python(tmp_path, ["-c", f"{code}\nprint(probabilities.shape, height.shape)"])
    assert "(40, 24, 10) (40, 24)" in said

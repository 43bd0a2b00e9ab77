"""Sweeps of which some runs have a damaged file, each in another way."""

import itertools
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from odd_files import ODDITIES, put
from sweep_folders import make_run

FILES = ("run.json", "config.yaml", "status.json", "evaluation.json", "metrics.jsonl")
"""What a report reads of a run."""
VARIANTS = (("patch=ps8",), ("patch=hybrid", "upsampler=guided"), ("patch=ps1",))
SEEDS = 3


def torn(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def blank(path: Path) -> None:
    path.write_text("\n \n\n")


def code_in_a_tag(path: Path) -> None:
    path.write_text('!!python/object/apply:os.system ["touch ran"]')


def a_number(path: Path) -> None:
    path.write_text("3")


def a_text(path: Path) -> None:
    path.write_text('"done"')


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{name: partial(put, name) for name in ODDITIES},
    **{each.__name__: each for each in (torn, blank, code_in_a_tag, a_number, a_text)},
}


def make_runs(root: Path, count: int) -> list[Path]:
    """Write runs of three seeds of each member; members differ in patch size, upsampler and learning rate."""
    whole = [
        make_run(root.parent / f"whole_{number}", *words, miou=0.3 + number / 100)
        for number, words in enumerate(VARIANTS)
    ]
    paths = []
    rates = range(1, count + 1)
    for number, (rate, original, seed) in enumerate(
        itertools.islice(itertools.product(rates, whole, range(SEEDS)), count)
    ):
        path = root / f"run_{number:04}"
        shutil.copytree(original, path)
        for name, before, after in (("run.json", '"{}": {}', ","), ("config.yaml", "{}: {}", "\n")):
            text = (path / name).read_text()
            changed = text.replace(before.format("seed", 0) + after, before.format("seed", seed) + after)
            old, new = (before.format("lr", value) + after for value in (0.001, f"0.{rate:06}"))
            assert old in changed
            (path / name).write_text(changed.replace(old, new))
        paths.append(path)
    return paths


def damage(runs: Sequence[Path], damages: Sequence[tuple[str, str]]) -> list[Path]:
    """Damage a file of each of the first runs; returns the files."""
    for run, (file, name) in zip(runs, damages, strict=False):
        DAMAGES[name](run / file)
    return [run / file for run, (file, _) in zip(runs, damages, strict=False)]

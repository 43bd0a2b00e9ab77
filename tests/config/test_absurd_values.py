"""Values that are legal and absurd end in one line, before anything is allocated or written."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from config_commands import ran
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_patch.config.compose import compose, plain_values
from hybrid_patch.config.overrides import quote
from hybrid_patch.config.sources import conf_folder
from hybrid_patch.errors import LONGEST_LINE, InputError

HUGE = 10**12
LONG = "x" * 5000
SMALL = ("data.tile=16", "data.scene_size=32", "data.scenes=4", "logger=none", "evaluation=none")

ABSURD = [
    ("train", ["model.encoder.width=1000000000000"], "model.encoder.width=1000000000000: "),
    ("train", ["model.encoder.width=1048576"], "model.encoder.width=1048576, depth=4, mlp_ratio=4: needs at least"),
    ("train", ["model.encoder.width=1000003", "model.encoder.heads=7"], "model.encoder.width=1000003: not divisible"),
    ("train", ["model.encoder.mlp_ratio=1e300"], "model.encoder.mlp_ratio=1e+300: "),
    ("train", ["model.decoder.depth=1000000"], "model.decoder.depth=1000000: "),
    ("train", ["trainer.batch_size=1000000000000"], "trainer.batch_size=1000000000000: "),
    ("train", ["trainer.batch_size=1000000000"], "trainer.batch_size=1000000000, data.tile=64: needs at least "),
    ("train", ["trainer.batch_size=4096"], "by the plan ("),
    ("train", ["loss.instance.weight=0", "masking.views=1000000000"], "masking.views=1000000000, "),
    ("train", ["runtime.workers=100000000"], "runtime.workers=100000000: "),
    ("train", ["runtime.threads=100000000"], "runtime.threads=100000000: "),
    ("train", ["runtime=ddp", "runtime.processes=4096", "trainer.batch_size=40960"], "runtime.processes=4096: needs "),
    ("train", ["data.scenes=2147483647", "data.scene_size=1000000"], "data.scene_size=1000000: needs at least "),
    ("train", ["data.tile=1048576", "data.scene_size=1048576"], "data.tile=1048576: needs at least "),
    ("train", ["run_dir=/proc/nope"], "run_dir=/proc/nope: "),
    ("train", [f"run_dir=a/{LONG[:300]}"], "run_dir="),
    ("train", ["run_dir=a\nb"], r"run_dir="),
    ("train", [f"sweep_name={LONG}"], "sweep_name=xxx"),
    ("train", ["sweep_name='a\nb'"], r"sweep_name=a\nb: "),
    ("train", ["logger.project='a\nb'"], r"logger.project=a\nb: "),
    ("train", ["data=rasters", "data.root="], "data.root=: empty"),
    ("train", [f"seed={'9' * 5000}"], "seed="),
    ("resume", [LONG], "xxx"),
    ("evaluate", [LONG], "xxx"),
    ("embed", [LONG, "scene.tif", "map.tif"], "xxx"),
    ("embed", ["run", "scene.tif", f"{LONG[:250]}.tif"], "output=xxx"),
    ("embed", ["run", "scene.tif", "map.tif", "batch=1000000000000"], "batch=1000000000000: "),
    ("report", [LONG], "xxx"),
    ("data describe", ["data.scene_size=1000000"], "data.scene_size=1000000: needs at least "),
    ("data describe", ["data=rasters", "data.root="], "data.root=: empty"),
    ("benchmark", ["rounds=1000000000000"], "rounds=1000000000000: "),
    ("benchmark-loading", ["trainer.batch_size=1000000000"], "trainer.batch_size=1000000000, data.tile=64: needs at "),
    ("plan", ["data.tile=1048576", "data.scene_size=1048576"], "data.tile=1048576: needs at least "),
    ("launch plan", ["model.encoder.width=1048576"], "a process needs "),
    ("launch plan", ["trainer.batch_size=1000000000"], "a process needs "),
    ("launch submit", ["trainer.batch_size=1000000000"], "a process needs "),
    ("launch submit", ["data.tile=1048576", "data.scene_size=1048576"], "data.tile=1048576: needs at least "),
    ("launch submit", ["cluster.slots=1000000000"], "cluster.slots=1000000000: "),
    ("launch submit", ["cluster.retries.killed=-1"], "cluster.retries.killed=-1: "),
    ("launch submit", ["cluster=slurm", "cluster.memory=lots"], "cluster.memory=lots: not a size"),
    ("launch submit", ["cluster=slurm", "cluster.partition='a\nb'"], r"cluster.partition=a\nb: "),
    ("launch run", ["cluster.slots=1000000000"], "cluster.slots=1000000000: "),
]
"""A command, what is absurd, and words of the line that it ends in."""


@pytest.mark.fire
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("command", "words", "line"), ABSURD, ids=[f"{name}: {words[-1][:40]!a}" for name, words, _ in ABSURD]
)
def test_one_line_within_a_minute(tmp_path: Path, command: str, words: list[str], line: str) -> None:
    arguments = [sys.executable, "-m", "hybrid_patch", *command.split(), *words]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    errors = [each for each in done.stderr.splitlines() if not each.startswith("planning ")]
    assert done.returncode == 2, done.stderr[-3000:]
    assert len(errors) == 1, done.stderr[-3000:]
    assert line in errors[0]
    assert len(errors[0]) < LONGEST_LINE + 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
def test_a_run_that_is_done_asks_for_no_memory(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*SMALL, "trainer.steps=1", f"run_dir={run}", "model.encoder.width=32", "model.decoder.width=32"]
    assert ran(tmp_path, "train", *words, module="hybrid_patch").returncode == 0
    again = ran(tmp_path, "train", *words, "runtime.workers=4096", module="hybrid_patch")
    assert "is done already" in again.stdout + again.stderr


def keys(node: Any, key: str = "") -> Iterator[str]:
    """The dotted keys of a plain config, of groups too."""
    if key:
        yield key
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        if not (isinstance(node, list) and isinstance(value, str | int | float)):
            yield from keys(value, f"{key}.{name}" if key else str(name))


BASES: list[list[str]] = [
    [],
    ["data=rasters", f"data.root={conf_folder()}"],
    ["upsampler=guided"],
    ["curriculum=mixed"],
]
CHOICES = [(base, key) for base in BASES for key in keys(plain_values(compose(base)))]
NUMBERS = st.one_of(
    st.sampled_from([0, -1, HUGE, 10**30, -(10**30), 2**31 - 1, 2**63, 10**4000]).map(str),
    st.sampled_from(["1e308", "1e-320", "nan", "inf", "-inf", "null", "true", "[]", "{}", "[1,[2]]", "{a:{b:1}}", ""]),
    st.integers().map(str),
    st.floats().map(str),
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(
        [LONG, "a\nb", "a\0b", "/", "..", "-x", "\x1b[31m", "\u2028", "\u202e", "~", " ", "???", "${seed}"]
    ),
)


@pytest.mark.timeout(600)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(CHOICES), st.one_of(NUMBERS, TEXTS.map(quote), TEXTS))
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(choice: tuple[list[str], str], value: str) -> None:
    base, key = choice
    try:
        compose([*base, f"{key}={value}"])
    except InputError as error:
        line = str(error)
        assert line.isprintable()
        assert len(line) <= LONGEST_LINE + 10
        assert any(word in line for word in (key, key.rpartition(".")[0] or key, key.partition(".")[0]))


@pytest.mark.parametrize("text", ["a\nb", "a\r\x1b[2Jb", "\u2028\u202e", "a\udcffb"])
def test_an_error_is_one_line_whatever_it_shows(text: str) -> None:
    line = str(InputError(f"key={text}: wrong"))
    assert line.isprintable()
    assert line.startswith("key=")
    assert line.endswith(": wrong")


def test_a_long_error_shows_its_beginning_and_its_end() -> None:
    line = str(InputError(f"key={LONG}: wrong; try less"))
    assert line.startswith("key=xxx")
    assert line.endswith("xxx: wrong; try less")
    assert len(line) < LONGEST_LINE + 10


def test_lines_below_an_error_are_one_line_each() -> None:
    assert str(InputError("2 members are bad:", "a\nb", "c")) == "2 members are bad:\n  a\\nb\n  c"

"""One damaged file takes no other run from a report, and is named in it."""

import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from damaged_runs import DAMAGES, FILES, damage, make_runs
from sweep_folders import make_run, write_manifest

from hybrid_patch.config.options import parse
from hybrid_patch.report import render
from hybrid_patch.report.benchmarks import read_benchmark
from hybrid_patch.report.conclusions import answer
from hybrid_patch.report.formatting import printable
from hybrid_patch.report.gallery import Gallery, gallery
from hybrid_patch.report.load_runs import find_runs, load_run
from hybrid_patch.report.options import ReportOptions
from hybrid_patch.report.summary import summarize
from hybrid_patch.report.write_report import write_report


def report(sweep: Path, *options: str) -> list[str]:
    """What the command prints."""
    return write_report(parse(ReportOptions, [str(sweep), *options]), lambda text: None)


def damaged_files(lines: Sequence[str]) -> set[str]:
    """The files that a report says are damaged."""
    return {match[1] for line in lines if (match := re.match(r"damaged: ([^,]+), \S", line))}


def check_runs(written: Path, runs: Sequence[Path], expected: Sequence[Path]) -> None:
    """A report names every run, whatever was damaged, and every damaged file with what is wrong."""
    plain = json.loads(written.with_suffix(".json").read_text())
    assert sorted(run["path"] for member in plain["members"] for run in member["runs"]) == sorted(map(str, runs))
    assert {line.partition(", ")[0] for line in plain["damage"]} == set(map(str, expected))
    page, markdown = (written.with_suffix(suffix).read_text() for suffix in (".html", ".md"))
    for file in expected:
        assert f"<li>{file}, " in page
        assert f"- damaged: {file}, ".replace("*", "\\*") in markdown


def check(sweep: Path, runs: Sequence[Path], expected: Sequence[Path]) -> None:
    """The same of a table, and of a page without its figures, whose drawing takes long."""
    written = sweep.parent / "report.html"
    for suffix in (".parquet", ".csv"):
        table = written.with_suffix(suffix)
        assert damaged_files(report(sweep, f"table={table}")) == set(map(str, expected))
    rows = {row["path"]: row for row in csv.DictReader(table.open())}
    assert rows.keys() == {printable(str(path)) for path in runs}
    damaged = {str(path.parent) for path in expected}
    for path, row in rows.items():
        assert bool(row["damage"]) == (path in damaged)
        assert row["damage"] or (row["state"], bool(row["score.miou"]), bool(row["cost.hours"])) == ("done", True, True)

    loaded = [load_run(path) for path in runs]
    summary = summarize(loaded)
    render.write(
        render.Page("", summary, answer(summary), loaded, [], [], Gallery(), {}, 0, "", written),
        sweep,
        lambda text: None,
    )
    check_runs(written, runs, expected)


@pytest.mark.fire
@pytest.mark.parametrize("file", FILES)
def test_a_file_is_damaged_in_every_way(tmp_path: Path, file: str) -> None:
    runs = make_runs(tmp_path / "sweep", len(DAMAGES) + 9)
    check(tmp_path / "sweep", runs, damage(runs, [(file, name) for name in DAMAGES]))
    assert not Path("ran").exists()  # as a tag says


CONTENTS: dict[str, list[Callable[[dict[str, Any]], object]]] = {
    "evaluation.json": [
        lambda plain: plain.update(features=[]),
        lambda plain: plain.update(features=None),
        lambda plain: plain["features"].update(embedding=[1, 2]),
        lambda plain: plain["features"]["embedding"].update(linear="good"),
        lambda plain: plain["features"]["embedding"]["linear"].update(all=None),
        lambda plain: plain["features"]["embedding"]["linear"]["all"].update(miou=0.9),
        *(
            lambda plain, value=value: plain["features"]["embedding"]["linear"]["all"]["miou"].update(mean=value)
            for value in ("0.9", True, None, -1, 1e300, float("nan"), float("inf"), 10**400, [0.9])
        ),
        lambda plain: plain["features"]["embedding"]["linear"]["all"]["miou"].pop("low"),
        lambda plain: plain.update(settings=3),
        lambda plain: plain.update(tiles=["train"]),
        lambda plain: plain.update(step="last"),
        lambda plain: plain.update(scores={"probe_miou": "good"}),
        lambda plain: plain.update(machine="here"),
    ],
    "run.json": [
        lambda plain: plain.update(run_id=3),
        lambda plain: plain.pop("run_id"),
        lambda plain: plain.update(recipe=[]),
        lambda plain: plain.pop("recipe"),
        lambda plain: plain.update(versions=3),
        lambda plain: plain.update(versions={"torch": [2]}),
        lambda plain: plain.update(machine="here"),
        lambda plain: plain.update(began=1e300),
        lambda plain: plain.update(began="yesterday"),
        lambda plain: plain.update(began=float("nan")),
    ],
    "status.json": [
        lambda plain: plain.update(state="fine"),
        lambda plain: plain.update(state=None),
        lambda plain: plain.pop("state"),
        lambda plain: plain.update(heartbeat="now"),
        lambda plain: plain.update(heartbeat=float("nan")),
        lambda plain: plain.update(attempt=-1),
        lambda plain: plain.update(step="many"),
        lambda plain: plain.update(step=True),
        lambda plain: plain.update(reason=["no"]),
    ],
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("file", CONTENTS)
def test_values_of_another_type(tmp_path: Path, file: str) -> None:
    edits = CONTENTS[file]
    runs = make_runs(tmp_path / "sweep", len(edits) + 9)
    for run, edit in zip(runs, edits, strict=False):
        plain = json.loads((run / file).read_text())
        edit(plain)
        (run / file).write_text(json.dumps(plain))
    check(tmp_path / "sweep", runs, [run / file for run in runs[: len(edits)]])


HARMLESS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a seed that is a text": lambda plain: plain["recipe"].update(seed="one"),
    "a seed beyond 64 bits": lambda plain: plain["recipe"].update(seed=10**30),
    "a recipe of lists": lambda plain: plain["recipe"].update(patch=[1, [2]], model="tiny", trainer=None),
    "a recipe without anything": lambda plain: plain.update(recipe={}),
    "a recipe nested 100 deep": lambda plain: plain["recipe"].update(model=json.loads('{"a":' * 100 + "1" + "}" * 100)),
    "a recipe with NaN": lambda plain: plain["recipe"].update(optimizer={"lr": float("nan")}),
    "keys with dots and without letters": lambda plain: plain["recipe"].update({"": 1, "a.b": {"": {}}}),
    "names with markup and line breaks": lambda plain: plain.update(run_id="<script>\n|*\0"),
    "a commit that is a list": lambda plain: plain.update(commit=["a"], dirty={"b": 1}, python=3),
}


def test_strange_recipes(tmp_path: Path) -> None:
    runs = make_runs(tmp_path / "sweep", len(HARMLESS) + 9)
    for run, edit in zip(runs, HARMLESS.values(), strict=False):
        plain = json.loads((run / "run.json").read_text())
        edit(plain)
        (run / "run.json").write_text(json.dumps(plain))
    check(tmp_path / "sweep", runs, [])


LINES: dict[str, list[str]] = {
    "text for a step": ['{"step": "four", "loss": 1.0}'],
    "a step of another type": ['{"step": true, "loss": 1.0}', '{"step": 2.5}', '{"step": null}', '{"loss": 1}', "3"],
    "negative and zero": ['{"step": -1, "loss": 1.0}', '{"step": 0, "loss": 1.0}'],
    "huge": ['{"step": 1000000000000000000, "loss": 1.0}', '{"step": 1' + "0" * 400 + "}"],
    "doubled": ['{"step": 30, "loss": 1.0}'] * 3,
    "blank and NUL": ["", " ", "\0\0\0", '{"step": 31\0}'],
    "nested": ["[" * 10_000, '{"step": 4, "loss": ' + "[" * 10_000],
    "a list, null and a text": ["[1]", "null", '"step"'],
}


@pytest.mark.parametrize("case", LINES)
def test_lines_that_are_no_steps(tmp_path: Path, case: str) -> None:
    """They cost nothing, and every step counts once."""
    run = make_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines = [*LINES[case], *lines[:30], *LINES[case], *lines[30:], *LINES[case]]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    loaded = load_run(run)
    assert loaded.metrics["step"].tolist() == list(range(1, 61))
    assert not loaded.damage


VALUES = ("1e308", "-1e308", "1e-320", "NaN", "Infinity", "-1", "1" + "0" * 400, "null")


@pytest.mark.fire
def test_absurd_numbers_in_metrics(tmp_path: Path) -> None:
    """All figures are drawn all the same."""
    runs = make_runs(tmp_path / "sweep", 2 * len(VALUES))
    for run, (value, few) in zip(runs, itertools.product(VALUES, (True, False)), strict=True):
        rows = (run / "metrics.jsonl").read_text().splitlines()
        for number in range(10, 20) if few else range(len(rows)):
            rows[number] = re.sub(r'(?<!step)": [\d.e-]+', f'": {value}', rows[number])
        (run / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    report(tmp_path / "sweep", f"output={tmp_path / 'report.html'}", "pictures=0")
    check_runs(tmp_path / "report.html", runs, [])


def test_steps_that_are_missing_are_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", state="running")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[:10], *lines[20:]]) + "\n")
    assert load_run(run).damage == (f"{run / 'metrics.jsonl'}, 50 whole lines of 60",)
    (run / "metrics.jsonl").write_text("\n".join(lines)[:-5])  # the line that is being written
    assert load_run(run).damage == ()
    (run / "run.json").unlink()
    assert load_run(run).damage == (f"{run / 'run.json'}, absent",)


@pytest.mark.fire
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_benchmark_manifest_and_gallery(tmp_path: Path, name: str) -> None:
    sweep = tmp_path / "sweep"
    runs = make_runs(sweep, 3)
    write_manifest(sweep, **{run.name: [] for run in runs})
    files = [sweep / "benchmark.json", sweep / "launch" / "manifest.json"]
    for file in [*files, tmp_path / "report_figures" / "pictures.json"]:
        file.parent.mkdir(exist_ok=True)
        file.write_text('{"rounds": 7, "variants": {"a": {}}}')
        DAMAGES[name](file)
    table = f"table={tmp_path / 'table.csv'}"
    assert damaged_files(report(sweep, table)) == {str(files[1])}
    damage = list[str]()
    assert read_benchmark([sweep], damage) is None
    assert damage[0].startswith(f"{files[0]}, ")
    summary = summarize([load_run(run) for run in runs])
    assert "no run is done" in gallery(summary.members, 1, tmp_path / "report_figures", lambda text: None).failure


@pytest.mark.parametrize("interval", ['{"median": 1}', '{"median": "1", "low": 1, "high": 1}', "[1]", "null", "NaN"])
def test_times_of_a_benchmark_that_are_none(tmp_path: Path, interval: str) -> None:
    path, damage = tmp_path / "benchmark.json", list[str]()
    path.write_text(
        f'{{"rounds": 7, "variants": {{"a": {{"step_seconds": {interval}}}}}, "ratios": {{}}, "config": {{"a": {{}}}}}}'
    )
    assert read_benchmark([tmp_path], damage) is None
    assert damage[0].startswith(f"{path}, variants.a.step_seconds")
    path.write_text('{"sweep": {}, "points": []}')
    assert read_benchmark([tmp_path], damage) is None
    assert len(damage) == 1


@pytest.mark.fire
def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    """Deep, looped, named in no encoding; and runs whose every file is something else."""
    sweep = tmp_path / "sweep"
    runs = [make_run(sweep / name) for name in ("plain", "line\nbreak", "<b>,|*", os.fsdecode(b"\xff\xfe"), "a" * 250)]
    runs.append(sweep / "nothing but fifos")
    runs[-1].mkdir()
    for name in FILES:
        os.mkfifo(runs[-1] / name)
    os.mkfifo(sweep / "fifo")
    (sweep / "loop").symlink_to(sweep)
    (sweep / "itself").symlink_to("itself")
    (sweep / "nowhere").symlink_to("absent")
    deep = sweep / "deep"
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        deep.mkdir()
        os.chdir(deep)
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.fchdir(here)
    try:
        assert set(runs) <= set(find_runs([sweep]))
        check(sweep, find_runs([sweep]), [runs[-1] / name for name in FILES])
    finally:
        subprocess.run(["rm", "-rf", deep], check=True)  # shutil.rmtree recurses


def as_anybody(*words: object) -> list[str]:
    """A report's command line, in a process that file permissions apply to, even where root runs it."""
    plain = [sys.executable, "-m", "hybrid_patch", "report", *map(str, words)]
    if os.geteuid():
        return plain
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv, by which root gives its rights up")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *plain]


@pytest.mark.fire
def test_unreadable_files_and_folders(tmp_path: Path) -> None:
    runs = make_runs(tmp_path / "sweep", 12)
    unreadable = [run / file for run, file in zip(runs, FILES, strict=False)]
    for path in (*unreadable, runs[5]):
        path.chmod(0)
    done = subprocess.run(
        as_anybody(tmp_path / "sweep", f"table={tmp_path / 'table.csv'}"), capture_output=True, text=True, check=False
    )
    runs[5].chmod(0o700)
    assert done.returncode == 0, done.stderr
    listed = damaged_files(done.stdout.splitlines())
    assert set(map(str, unreadable)) | {str(runs[5] / "status.json")} <= listed
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert sum(row["state"] == "done" and not row["damage"] for row in rows) == 6
    assert len(rows) == 12


@pytest.mark.fire
def test_a_thousand_runs(tmp_path: Path) -> None:
    """Those with a damaged file are named; all others are there."""
    runs = make_runs(tmp_path / "sweep", 1000)
    expected = damage(runs[::9], list(itertools.product(FILES, DAMAGES)))
    assert len(expected) >= 50
    words = ["report", str(tmp_path / "sweep"), f"output={tmp_path / 'report.html'}", "pictures=0"]
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_patch", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert damaged_files(done.stdout.splitlines()) == set(map(str, expected))
    check_runs(tmp_path / "report.html", runs, expected)
    states = json.loads((tmp_path / "report.json").read_text())["states"]
    assert states == {"done": 1000 - len(DAMAGES), "damaged": len(DAMAGES)}
    assert not (tmp_path / "ran").exists()

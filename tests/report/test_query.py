"""Runs found by conditions, two runs compared, and all runs as a data frame."""

import re
from pathlib import Path

import pytest
from sweep_folders import make_run, make_sweep

import hybrid_patch
from hybrid_patch.config.options import parse
from hybrid_patch.errors import InputError
from hybrid_patch.report.diff import DiffOptions, diff_command
from hybrid_patch.report.query import QueryOptions, query_command


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/mine`: ps=8, ps=1 and two hybrids, three seeds each, and a run that is not evaluated."""
    folder = tmp_path_factory.mktemp("work")
    make_sweep(folder / "runs" / "mine")
    make_run(
        folder / "runs" / "other" / "longer",
        "patch=hybrid",
        "upsampler=learned",
        steps=90,
        miou=None,
        state="preempted",
    )
    return folder


@pytest.fixture(autouse=True)
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def folders(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The folders of the runs that a query shows, in order, below `runs/`."""
    assert query_command(parse(QueryOptions, list(words))) == 0
    printed = capsys.readouterr().out
    return re.findall(r"runs/(\S+) +│\n", printed)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("upsampler=bilinear", {"mine/bilinear_s0", "mine/bilinear_s1", "mine/bilinear_s2"}),
        ("patch=ps1 seed=1", {"mine/ps1_s1"}),
        ("patch=hybrid seed=0", {"mine/guided_s0", "mine/bilinear_s0", "other/longer"}),
        ("patch!=hybrid seed=0", {"mine/ps8_s0", "mine/ps1_s0"}),
        ("trainer.steps>=90", {"other/longer"}),
        ("trainer.steps>=90 sweep=mine", set()),
        ("miou>0.32 seed<2 upsampler=guided patch=hybrid", {"mine/guided_s1"}),
        ("step_seconds>1 seed=2", {"mine/ps1_s2"}),
        ("upsampler!=guided seed=0", {"mine/bilinear_s0", "other/longer"}),
        ("state=stopped", {"other/longer"}),
        ("state=running", set()),
        ("seed=0.0 optimizer.lr<=1 state!=done", {"other/longer"}),
    ],
)
def test_runs_that_match(words: str, shown: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert set(folders(capsys, *words.split())) == shown


def test_the_order_and_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    of_seed = ["seed=0", "sort=miou"]
    best_first = ["mine/ps1_s0", "mine/guided_s0", "mine/ps8_s0", "mine/bilinear_s0", "other/longer"]
    assert folders(capsys, *of_seed) == best_first
    assert folders(capsys, *of_seed, "limit=2") == best_first[:2]
    assert folders(capsys, "seed=0", "sort=-miou") == [*best_first[3::-1], best_first[4]]


def test_an_option_of_ones_own_is_named_with_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "mine.yaml").write_text("processing_patch_size: 8\noutput_patch_size: 1\n")
    shown = folders(capsys, "patch=mine", "seed=0", "--config-dir", str(tmp_path))
    assert set(shown) == {"mine/guided_s0", "mine/bilinear_s0", "other/longer"}


def test_a_score_that_no_run_has_yet_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert folders(capsys, "sweep=other", "sort=head_miou") == ["other/longer"]
    assert folders(capsys, "sweep=other", "miou>0") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["knn_muio>0.3"], "knn_muio: no run has such a value (did you mean knn_miou?)"),
        (["sort=-knn_muio"], "knn_muio: no run has such a value (did you mean knn_miou?)"),
        (["patch=ps7"], "patch=ps7: no such option; takes: "),
        (["state=cancelled"], "state=cancelled: no such option; takes: failed, damaged, missing, stopped, running, "),
        (["miou>high"], "miou>high: not a number; > compares numbers"),
        (["sweep=none"], "runs/none: there is no such folder"),
        (["limit=0"], "limit=0: must be greater than or equal to 1"),
        (["upsampler"], "upsampler: one argument too many"),
    ],
)
def test_bad_queries_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        query_command(parse(QueryOptions, words))
    assert str(error.value).startswith(message)


def test_what_differs_between_two_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert diff_command(DiffOptions(first="guided_s0", second="mine/ps8_s0")) == 0
    rows = {row[0]: row[1:] for row in map(str.split, capsys.readouterr().out.replace("│", " ").splitlines()) if row}
    assert rows["patch.output_patch_size"] == ["1", "8"]
    assert rows["miou"] == ["0.316", "0.252", "-0.064"]
    assert rows["step_seconds"][2] == "0.604×"
    assert "optimizer.lr" not in rows
    assert diff_command(DiffOptions(first="runs/mine/ps8_s0", second="runs/mine/ps8_s0")) == 0
    assert capsys.readouterr().out.endswith("no value differs\n")
    with pytest.raises(InputError, match=r"^guided: could be runs/mine/guided_s0, [^\n]*; give more of it$"):
        diff_command(DiffOptions(first="guided", second="ps8_s0"))
    with pytest.raises(InputError, match=r"^runs/mine: is no run: it has no run.json, [^\n]*$"):
        diff_command(DiffOptions(first="runs/mine", second="ps8_s0"))
    with pytest.raises(InputError, match=r"^nothing: no run below runs/ has such an id$"):
        diff_command(DiffOptions(first="nothing", second="ps8_s0"))


def test_all_runs_are_a_data_frame() -> None:
    frame = hybrid_patch.load_runs("runs/")
    assert len(frame) == 13
    means = frame[frame["patch.output_patch_size"] == 1].groupby("upsampler.name")["score.miou"].mean()
    assert means["bilinear"] == pytest.approx(0.2475, abs=0.01)
    longer = frame.set_index("path").loc["runs/other/longer"]
    assert (longer["state"], longer["step"], longer["trainer.steps"]) == ("stopped", 90, 90)
    assert longer.isna()["score.miou"]
    assert frame.equals(hybrid_patch.load_runs("runs/mine", Path("runs/other")))
    assert len(hybrid_patch.load_runs()) == 13
    with pytest.raises(InputError, match=r"^nowhere: there is no such folder"):
        hybrid_patch.load_runs("nowhere")

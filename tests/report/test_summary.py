"""What a page says of runs: members, what may be compared, the front, and the answer."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from sweep_folders import STEPS, make_run, make_sweep, write_manifest

from hybrid_patch.errors import InputError
from hybrid_patch.report import formatting, metrics
from hybrid_patch.report.benchmarks import read_benchmark, use_benchmark
from hybrid_patch.report.conclusions import answer
from hybrid_patch.report.curves import curves_of
from hybrid_patch.report.export import as_csv, as_json, as_markdown, member_rows
from hybrid_patch.report.grouping import BEST, ReportMember, members_of, swept_keys
from hybrid_patch.report.load_runs import columns, find_runs, load_run
from hybrid_patch.report.predictions import predict_runs
from hybrid_patch.report.run_table import run_rows, write_table
from hybrid_patch.report.statistics import Estimate
from hybrid_patch.report.summary import Axes, Summary, add_predictions, summarize

HYBRID, GUIDED, BILINEAR = "patch=hybrid", "upsampler=guided", "upsampler=bilinear"


def summed(*folders: Path, axes: tuple[str, ...] = ()) -> Summary:
    return summarize([load_run(path) for path in find_runs(folders)], axes)


def rows(summary: Summary) -> dict[str, ReportMember]:
    return {row.label: row for row in summary.members}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("sweep"))


def test_a_sweep_is_members_with_seeds_held_against_pure_ones(sweep: Path) -> None:
    summary = summed(sweep)
    assert summary.axes == Axes([], ["patch", "upsampler"])
    members = rows(summary)
    assert set(members) == {"ps=8", "ps=1", "guided 8→1", "bilinear 8→1"}
    guided = members["guided 8→1"]
    assert guided.measures["miou"].n == len(guided.runs) == 3
    assert guided.against["ps=8"].comparisons["miou"].verdict == "more"
    assert guided.against["ps=8"].comparisons["step_seconds"].estimate.mean == pytest.approx(5 / 3, rel=0.02)
    assert guided.against["ps=1"].comparisons["peak_memory_bytes"].estimate.mean == pytest.approx(0.1)
    assert members["bilinear 8→1"].against["ps=8"].comparisons["miou"].verdict == "no difference shown"
    assert set(members["ps=1"].against) == {"ps=8"}
    # Nothing is cheaper than ps=8, nothing better than ps=1; bilinear is hardly better than ps=8, by its mean.
    assert {label for label, row in members.items() if row.front} >= {"ps=8", "ps=1", "guided 8→1"}
    assert summary.differences == []
    assert summary.missing_seeds == {}


def test_the_answer_is_no_stronger_than_the_numbers(sweep: Path) -> None:
    first, *others = answer(summed(sweep))
    assert first.startswith("Use guided 8→1: mIoU .3")
    assert "is not shown to be below ps=1 (" in first
    assert "1/38 of its step time and 1/10 of its memory; above raw bands (+.1" in first
    words = " ".join(others)
    assert "ps=1 has the highest mean mIoU" in words
    assert "3 seeds" in words
    assert "shown to be above" in words
    assert "Raw bands have mIoU .200." in words
    assert "By linear probe: every member beats raw · not surroundings." in words
    assert "No member is better" not in words  # all are on the front


def test_what_is_recommended_is_no_worse_and_cheaper(tmp_path: Path) -> None:
    noise = (0.0, 0.01, -0.01)
    for seed in range(3):
        make_run(tmp_path / f"ps1_{seed}", "patch=ps1", seed=seed, miou=0.33 + noise[seed], seconds=2.0)
        make_run(tmp_path / f"ps8_{seed}", "patch=ps8", seed=seed, miou=0.2 + noise[seed], seconds=0.03)
    assert answer(summed(tmp_path))[0].startswith("Use ps=1: mIoU .330")  # ps=8 is shown to be below
    for seed in range(3):
        make_run(tmp_path / f"slow_{seed}", HYBRID, GUIDED, seed=seed, miou=0.33 - noise[seed], seconds=2.5)
    assert answer(summed(tmp_path))[0].startswith("Use ps=1: mIoU .330")  # the other is not cheaper
    for seed in range(3):
        make_run(tmp_path / f"quick_{seed}", HYBRID, BILINEAR, seed=seed, miou=0.325 - noise[seed], seconds=0.2)
    assert answer(summed(tmp_path))[0].startswith("Use bilinear 8→1: mIoU .325")
    for seed, miou in enumerate((0.1, 0.45, 0.2)):  # not shown to be below, but nobody knows where it is
        make_run(tmp_path / f"noisy_{seed}", HYBRID, BILINEAR, steps=STEPS * 2, seed=seed, miou=miou, seconds=0.02)
    assert answer(summed(tmp_path))[0].startswith("Use bilinear 8→1 (steps=60): mIoU .325")


def test_a_recommendation_claims_only_differences_that_are_shown(tmp_path: Path) -> None:
    """The cheaper member takes a memory that spreads around that of the best, and is above raw bands by a hair."""
    for seed in range(3):
        make_run(tmp_path / f"ps1_{seed}", "patch=ps1", seed=seed, miou=0.21, seconds=2.0)
        memory = (40 + 10 * seed) * 2**20
        make_run(tmp_path / f"quick_{seed}", HYBRID, GUIDED, seed=seed, miou=0.21, seconds=0.2, memory=memory)
    first = answer(summed(tmp_path))[0]
    assert first.startswith("Use guided 8→1: ")
    assert "of its step time; not shown above raw bands (+.010)" in first
    assert "memory" not in first
    make_run(tmp_path / "below" / "ps8", "patch=ps8", miou=0.19)
    assert "; NOT above raw bands (−.010)" in answer(summed(tmp_path / "below"))[0]


def test_nothing_is_recommended_from_one_seed(tmp_path: Path) -> None:
    make_run(tmp_path / "a", HYBRID, GUIDED, miou=0.3)
    make_run(tmp_path / "b", HYBRID, GUIDED, steps=STEPS * 2, miou=0.2)  # alike but for their steps
    make_run(tmp_path / "c", "patch=ps8", miou=0.1)
    summary = summed(tmp_path)
    assert {"guided 8→1 (steps=60)", "guided 8→1 (steps=120)", "ps=8"} == set(rows(summary))
    assert answer(summary)[0].startswith("No recommendation from one seed: guided 8→1 (steps=60) has the highest mIoU")


def test_no_two_members_have_the_same_label(tmp_path: Path) -> None:
    for folder, damaged in (("one", True), ("two", True)):
        make_run(tmp_path / folder / "run", HYBRID, GUIDED)
        if damaged:  # no recipe tells them apart
            (tmp_path / folder / "run/run.json").write_text("{")
            (tmp_path / folder / "run/config.yaml").write_text("{")
    labels = [member.label for member in summed(tmp_path).members]
    assert len(set(labels)) == 2


def test_what_a_swept_group_decides_is_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "patch=hybrid", GUIDED)
    make_run(tmp_path / "b", "patch=ps8", GUIDED)
    write_manifest(tmp_path, a=("patch=hybrid",), b=("patch=ps8",))
    summary = summed(tmp_path, axes=tuple(swept_keys([tmp_path])))
    assert summary.axes.declared == ["patch"]
    assert summary.differences == []


@pytest.mark.full
def test_runs_that_shared_a_machine_are_compared_by_flops(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path / f"a{seed}", HYBRID, GUIDED, seed=seed, seconds=5.0)
        make_run(tmp_path / f"b{seed}", "patch=ps8", seed=seed, seconds=0.01)
    alone = rows(summed(tmp_path))["guided 8→1"].against["ps=8"].comparisons["step_seconds"]
    assert alone.estimate.mean == pytest.approx(500)
    assert (alone.estimate.how, alone.verdict, alone.estimate.n) == ("steps", "more", 2)
    for name in ("a0", "b0"):
        run = json.loads((tmp_path / name / "run.json").read_text())
        (tmp_path / name / "run.json").write_text(json.dumps({**run, "began": 0.0}))
    runs = [load_run(path) for path in find_runs([tmp_path])]
    summary = summarize(runs)
    predicted, _ = predict_runs(runs)
    add_predictions(summary, predicted)
    guided, ps8 = (rows(summary)[label] for label in ("guided 8→1", "ps=8"))
    shared = guided.against["ps=8"].comparisons["step_seconds"]
    assert guided.planned is not None
    assert ps8.planned is not None
    flops = [guided.planned.flops_per_step or 0.0, ps8.planned.flops_per_step or 1.0]
    assert shared.estimate.mean == flops[0] / flops[1] < 100
    assert formatting.verdict(shared, formatting.times).endswith("(by FLOPs, 2 seeds)")
    add_predictions(unplanned := summarize(runs), {})
    unclear = rows(unplanned)["guided 8→1"].against["ps=8"].comparisons["step_seconds"]
    assert formatting.verdict(unclear, formatting.times) == "not measured well here"


def test_losses_that_cannot_be_compared_share_no_axes(tmp_path: Path) -> None:
    make_run(tmp_path / "a", HYBRID, GUIDED)
    make_run(tmp_path / "b", "patch=ps1")
    make_run(tmp_path / "c", "patch=ps8")
    make_run(tmp_path / "d", "patch=ps8", "loss.visible.weight=0.5")
    curves = curves_of(summed(tmp_path).members, {})
    scales = {curve.label: curve.scale for curve in curves if curve.kind == "loss"}
    assert len(set(scales.values())) == 3
    assert scales["guided 8→1"] == scales["ps=1"]
    assert {curve.scale for curve in curves if curve.kind != "loss"} == {""}


def test_a_member_beaten_in_all_three_is_not_on_the_front(tmp_path: Path) -> None:
    make_run(tmp_path / "a", HYBRID, GUIDED, miou=0.3, seconds=0.05, memory=2**20)
    make_run(tmp_path / "b", HYBRID, BILINEAR, miou=0.29, seconds=0.06, memory=2**21)
    make_run(tmp_path / "c", "patch=ps8", miou=0.2, seconds=0.06, memory=2**19)
    front = {label: row.front for label, row in rows(summed(tmp_path)).items()}
    assert front == {"guided 8→1": True, "bilinear 8→1": False, "ps=8": True}


def test_one_seed_gives_no_verdict(tmp_path: Path) -> None:
    make_run(tmp_path / "a", HYBRID, GUIDED, miou=0.9)
    make_run(tmp_path / "b", "patch=ps8", miou=0.1)
    summary = summed(tmp_path)
    assert rows(summary)["ps=8"].against[BEST].comparisons["miou"].verdict == "too few seeds"
    sentences = answer(summary)
    assert any("too few seeds for a verdict on ps=8" in sentence for sentence in sentences)
    assert not any("shown to be" in sentence for sentence in sentences)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("overrides", "steps", "key", "excluded"),
    [
        (("trainer.batch_size=4",), STEPS, "trainer.batch_size", "costs"),
        (("data.tile=32",), STEPS, "data.tile", "costs"),
        (("data.scene_seed=7",), STEPS, "data.scene_seed", "scores"),
        ((), STEPS // 2, "trainer.steps", "scores"),
        (("optimizer.lr=0.5",), STEPS, "optimizer.lr", ""),
        (("runtime.precision=bf16-mixed",), STEPS, "runtime.precision", "costs"),
    ],
)
def test_what_differs_besides_is_listed_and_not_compared_in_silence(
    overrides: tuple[str, ...], steps: int, key: str, excluded: str, tmp_path: Path
) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", HYBRID, GUIDED, seed=seed)
        make_run(tmp_path / f"b{seed}", "patch=ps8", seed=seed)
    make_run(tmp_path / "odd", HYBRID, BILINEAR, *overrides, steps=steps)
    summary = summed(tmp_path)
    different = {each.key: each for each in summary.differences}
    assert ["odd"] in different[key].values.values()
    assert excluded in different[key].effect
    odd = next(row for row in summary.members if row.runs[0].path.name == "odd")
    against = odd.against["ps=8"].comparisons
    assert ("miou" in against) == (excluded != "scores")
    assert ("step_seconds" in against) == (excluded != "costs")
    assert bool(odd.excluded.get(excluded)) == bool(excluded)
    if excluded:
        assert not odd.front
        assert key in odd.excluded[excluded]


def test_what_was_swept_over_is_compared(tmp_path: Path) -> None:
    for size in (2, 4):
        make_run(tmp_path / f"batch{size}", HYBRID, GUIDED, f"trainer.batch_size={size}", seed=size)
        make_run(tmp_path / f"steps{size}", HYBRID, GUIDED, steps=STEPS + size)
    summary = summed(tmp_path, axes=("trainer.batch_size", "trainer.steps"))
    assert summary.differences == []
    assert not any(any(row.excluded.values()) for row in summary.members)
    assert summary.axes.columns == ["trainer.batch_size", "trainer.steps"]


def test_another_commit_and_another_machine_are_flagged_but_compared(tmp_path: Path) -> None:
    make_run(tmp_path / "a", HYBRID, GUIDED)
    machine = json.loads((tmp_path / "a/run.json").read_text())["machine"]
    make_run(tmp_path / "b", "patch=ps8", commit="abc", machine={**machine, "host": "elsewhere"})
    summary = summed(tmp_path)
    effects = {each.key: each.effect for each in summary.differences}
    assert effects == {"code.commit": "flagged", "machine.host": "flagged", "code.evaluated at commit": "flagged"}
    assert set(rows(summary)["guided 8→1"].against["ps=8"].comparisons) > {"miou", "step_seconds"}
    make_run(tmp_path / "c", HYBRID, BILINEAR, machine={**machine, "cpus": 64})
    assert "step_seconds" not in rows(summed(tmp_path))["bilinear 8→1"].against["ps=8"].comparisons


def test_failed_missing_and_unfinished_runs_are_shown_and_do_not_count(tmp_path: Path) -> None:
    make_run(tmp_path / "good0", HYBRID, GUIDED, seed=0, miou=0.3)
    make_run(tmp_path / "good1", HYBRID, GUIDED, seed=1, miou=0.3)
    make_run(tmp_path / "failed", HYBRID, GUIDED, seed=2, miou=0.9, state="failed")
    make_run(tmp_path / "running", HYBRID, BILINEAR, seed=0, miou=None, state="running")
    runs = [*map(load_run, find_runs([tmp_path])), load_run(tmp_path / "never")]
    summary = summarize(runs)
    by_label = rows(summary)
    assert by_label["guided"].measures["miou"].n == 2
    assert by_label["guided"].state == "failed"
    assert by_label["bilinear"].measures["step_seconds"].n == 1
    assert by_label["never"].state == "missing"
    assert summary.states == {"done": 2, "failed": 1, "running": 1, "missing": 1}
    assert summary.missing_seeds == {}  # seeds 1 and 2 are of one member alone


def test_the_same_seed_twice_counts_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a", HYBRID, GUIDED, miou=0.3)
    make_run(tmp_path / "b", HYBRID, GUIDED, miou=0.5)
    (row,) = summed(tmp_path).members
    assert row.measures["miou"] == Estimate(0.3, None, None, 1, "")
    assert any("seed 0 exists already" in note for note in row.notes)


def test_half_written_files_cost_only_themselves(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=2)
    torn, empty = tmp_path / "guided_s1", tmp_path / "ps1_s0"
    metrics = (torn / "metrics.jsonl").read_text()
    (torn / "metrics.jsonl").write_text(metrics[: len(metrics) // 2])
    (torn / "run.json").write_text('{"run_id": "x", "rec')
    (empty / "metrics.jsonl").write_text("")
    (empty / "evaluation.json").write_text("[1, 2")
    (tmp_path / "bilinear_s0/metrics.jsonl").write_bytes(b"\xff\xfe\n")
    (tmp_path / "bilinear_s1/metrics.jsonl").write_text('{"step": "one"}\n{"loss": 3}\nnull\n')
    (tmp_path / "ps8_s0/status.json").write_text("null")
    summary = summed(tmp_path)
    notes = " ".join(note for row in summary.members for note in row.notes)
    assert re.search(r"guided_s1/metrics.jsonl, (29|30|31) whole lines of 60", notes)
    for words in (
        *("guided_s1/run.json, ", "ps1_s0/evaluation.json, ", "ps8_s0/status.json, "),
        *("bilinear_s0/metrics.jsonl, 0 whole lines of 60", "bilinear_s1/metrics.jsonl, 0 whole lines of 60"),
    ):
        assert words in notes
    assert sum(len(row.runs) for row in summary.members) == 8
    assert summary.differences == []  # what cannot be read differs in nothing
    (guided,) = (row for row in summary.members if row.label == "guided 8→1")
    assert summary.missing_seeds == {"guided 8→1": [1], "guided_s1": [0]}
    assert guided.measures["miou"].n == 1
    json.dumps(as_json("", [], summary), allow_nan=False)


def test_bad_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no run in it"):
        find_runs([tmp_path])


def test_runs_are_found_at_any_depth_once(sweep: Path) -> None:
    assert len(find_runs([sweep])) == len(find_runs([sweep, sweep, sweep / "ps8_s0"])) == 12


def test_nothing_evaluated_is_an_answer_too(tmp_path: Path) -> None:
    make_run(tmp_path / "a", HYBRID, miou=None)
    summary = summed(tmp_path)
    assert "none with an evaluation" in answer(summary)[0]
    assert "step_seconds" in summary.members[0].measures


def test_a_warm_up_and_stages_are_told_apart_in_the_time_of_a_step() -> None:
    seconds = [9.0] * 20 + [1.0] * 80 + [50.0] + [3.0] * 99
    taken = columns(
        [
            {"step": i + 1, "step_seconds": x, "processing_patch_size": 8, "output_patch_size": 8 if i < 100 else 1}
            for i, x in enumerate(seconds)
        ]
    )
    assert metrics.step_seconds(taken) == pytest.approx(2.0)
    assert metrics.step_seconds(columns([])) is None
    assert metrics.step_seconds(columns([{"step": 1, "step_seconds": 4.0}])) == 4.0


@pytest.mark.full
def test_curves_have_steps_time_and_flops_and_their_changes_of_stage(tmp_path: Path) -> None:
    stages = [(8, 8), (8, 4), (8, 2), (8, 1)]
    make_run(tmp_path / "gradual", "curriculum=gradual", "upsampler=learned", sizes=stages, steps=400)
    make_run(tmp_path / "mixed", "curriculum=mixed", "upsampler=learned", sizes=stages * 25, steps=400)
    runs = [load_run(path) for path in find_runs([tmp_path])]
    predicted, failed = predict_runs(runs[:1])
    assert failed == {}
    loss, probe, _, mixed, *_ = curves_of(members_of(runs)[0], predicted)
    assert [name for _, name in loss.changes] == ["8→4", "8→2", "8→1"]
    assert [step for step, _ in loss.changes] == [100, 200, 300]
    assert mixed.changes == []
    assert len(loss.y) == 120
    assert len(probe.y) == 20
    per_stage = [predicted[runs[0].path].flops[sizes] for sizes in stages]
    assert loss.x["flops"][-1] == pytest.approx(100 * sum(per_stage))
    assert (np.diff(loss.x["minutes"]) > 0).all()
    summary = summarize(runs)
    add_predictions(summary, predicted)
    assert summary.members[0].planned is not None
    assert summary.members[0].planned.flops_per_step == pytest.approx(sum(per_stage) / 4)


def test_csv_and_markdown_have_the_same_numbers(sweep: Path) -> None:
    summary = summed(sweep)
    table = list(csv.DictReader(io.StringIO(as_csv(member_rows(summary)))))
    assert [row["member"] for row in table] == [row.label for row in summary.members]
    for line, row in zip(table, summary.members, strict=True):
        assert float(line["miou"]) == row.measures["miou"].mean
        assert line["miou_n"] == "3"
    markdown = as_markdown(summary, answer(summary))
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table)
    assert len({line.count("|") for line in lines}) == 1
    assert "3 seeds" in lines[2]


def test_names_end_no_cell_of_the_markdown(tmp_path: Path) -> None:
    make_run(tmp_path / "a|b", HYBRID, 'model.name="a|b<script>*"')
    make_run(tmp_path / "b", HYBRID, "model.name=c")
    summary = summed(tmp_path)
    markdown = as_markdown(summary, answer(summary))
    assert "<script>" not in markdown
    cells = [line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")]
    assert len(set(cells)) == 1


def test_numbers_are_written_as_people_read_them() -> None:
    assert [formatting.score(x) for x in (0.3414, -0.012, 1.0)] == [".341", "-.012", "1.000"]
    assert [formatting.signed(x) for x in (0.0814, -0.012, 0.0)] == ["+.081", "−.012", "+.000"]
    assert [formatting.seconds(x) for x in (0.0524, 1.961)] == ["52.4 ms", "1.96 s"]
    assert [formatting.memory(x) for x in (77 * 2**20, 1010 * 2**20, 1.25 * 2**30)] == [
        "77 MiB",
        "1010 MiB",
        "1.25 GiB",
    ]
    assert [formatting.hours(x) for x in (0.00247, 0.05, 3.44)] == ["8.89 s", "3 min", "3.44 h"]
    assert [formatting.flops(x) for x in (2.5e15, 1.2e9, 3e6)] == ["2.5 PFLOP", "1.2 GFLOP", "3 MFLOP"]
    assert formatting.interval(Estimate(0.025, 0.02, 0.03, 3, "t"), formatting.seconds) == "20 to 30 ms"


def test_a_benchmark_of_all_members_is_preferred_to_the_trainings_own_times(tmp_path: Path) -> None:
    make_run(tmp_path / "a", HYBRID, GUIDED, seconds=0.5)
    make_run(tmp_path / "b", "patch=ps8", seconds=0.5)

    def interval(median: float) -> dict[str, float]:
        return {"median": median, "low": median * 0.9, "high": median * 1.1}

    recipes = {name: json.loads((tmp_path / name / "run.json").read_text())["recipe"] for name in "ab"}
    recipes["a"] = {**recipes["a"], "seed": 9, "trainer": {**recipes["a"]["trainer"], "steps": 1}}
    report: dict[str, Any] = {
        "rounds": 7,
        "config": {"guided": recipes["a"], "ps8": recipes["b"]},
        "variants": {"guided": {"step_seconds": interval(0.2)}, "ps8": {"step_seconds": interval(0.1)}},
        "ratios": {"guided/ps8": {"step_seconds": interval(2.0)}, "ps8/guided": {"step_seconds": interval(0.5)}},
    }
    (tmp_path / "benchmark.json").write_text(json.dumps(report))

    def used() -> Summary:
        summary = summed(tmp_path)
        benchmark = read_benchmark([tmp_path], [])
        assert benchmark is not None
        use_benchmark(benchmark, summary)
        return summary

    summary = used()
    guided = rows(summary)["guided 8→1"]
    assert guided.measures["step_seconds"].mean == 0.2
    assert (
        formatting.with_seeds(guided.measures["step_seconds"], formatting.seconds) == "200 ms (180 to 220 ms, 7 rounds)"
    )
    assert guided.against["ps=8"].comparisons["step_seconds"].verdict == "more"
    assert "7 rounds" in summary.time_note
    report["config"]["guided"]["upsampler"]["rank"] = 5
    (tmp_path / "benchmark.json").write_text(json.dumps(report))
    summary = used()
    assert rows(summary)["guided 8→1"].measures["step_seconds"].mean == pytest.approx(0.505, rel=0.01)
    assert "not used: it has no variant with the recipe of guided" in summary.time_note
    (tmp_path / "benchmark.json").write_text('{"rounds": 7')
    assert read_benchmark([tmp_path], []) is None


@pytest.mark.full
@pytest.mark.parametrize(
    "config", ["{}", "5", "patch: 5\nupsampler: [1]\nruntime: x", "1: {2: 3}", "seed: one\ndata: {name: rasters}"]
)
def test_a_config_that_is_none_costs_only_its_run(config: str, tmp_path: Path) -> None:
    make_run(tmp_path / "good", HYBRID, GUIDED)
    bad = make_run(tmp_path / "bad", "patch=ps8")
    (bad / "config.yaml").write_text(config)
    (bad / "run.json").unlink()
    (bad / "evaluation.json").write_text('{"features": {"embedding": 3}, "settings": [], "tiles": 4, "step": NaN}')
    (bad / "metrics.jsonl").write_text('{"step": 1, "step_seconds": 0, "peak_memory_bytes": 0, "loss": NaN}\n')
    runs = [load_run(path) for path in find_runs([tmp_path])]
    summary = summarize(runs)
    predicted, failed = predict_runs(runs)
    add_predictions(summary, predicted)
    assert bad in failed
    json.dumps(as_json("", [], summary), allow_nan=False)
    assert rows(summary)[next(label for label in rows(summary) if label != "bad")].measures["miou"].n == 1
    assert rows(summary)["bad"].measures == {}


def test_the_manifest_of_a_submitted_sweep_names_axes_and_missing_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "a", HYBRID, GUIDED, "optimizer.lr=0.1")
    make_run(tmp_path / "b", HYBRID, GUIDED, "optimizer.lr=0.2")
    words = (HYBRID, "+upsampler=guided")
    write_manifest(
        tmp_path,
        a=(*words, "optimizer.lr=0.1", "seed=0"),
        b=(*words, "optimizer.lr=0.2", "seed=0"),
        c=(*words, "optimizer.lr=0.2", "seed=1"),
    )
    assert swept_keys([tmp_path]) == ["optimizer.lr"]
    assert swept_keys([tmp_path, tmp_path / "a"]) == []  # a folder without a manifest
    assert [path.name for path in find_runs([tmp_path])] == ["a", "b", "c"]
    summary = summed(tmp_path, axes=("optimizer.lr",))
    assert summary.states == {"done": 2, "missing": 1}
    (tmp_path / "launch/manifest.json").write_text("{")
    assert swept_keys([tmp_path]) == []
    assert [path.name for path in find_runs([tmp_path])] == ["a", "b"]


def test_the_table_has_a_row_per_run_with_what_differs(tmp_path: Path) -> None:
    make_run(tmp_path / "a", HYBRID, GUIDED, miou=0.4)
    make_run(tmp_path / "b", "patch=ps8", "optimizer.lr=0.5", seed=1, miou=None, state="failed")
    runs = [*map(load_run, find_runs([tmp_path])), load_run(tmp_path / "never")]
    rows = run_rows(members_of(runs)[0])
    assert [row["state"] for row in rows] == ["done", "failed", "missing"]
    assert [row["seed"] for row in rows] == [0, 1, None]
    assert [row["patch.output_patch_size"] for row in rows] == [1, 8, None]
    assert rows[1]["optimizer.lr"] == 0.5
    assert [row["step"] for row in rows] == [STEPS, STEPS, None]
    assert [row["score.miou"] for row in rows] == [0.4, None, None]
    assert rows[0]["cost.step_seconds"] == pytest.approx(0.0505)
    assert "model.name" not in rows[0]  # the same in all runs that have begun
    write_table(rows, tmp_path / "table.parquet")
    assert parquet.read_table(tmp_path / "table.parquet").to_pylist() == rows
    write_table(rows, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == [row["id"] for row in rows]

"""The benchmark: statistics of its timing, its options, real runs, and variants that fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from building import TINY
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from hybrid_patch.config.compose import compose
from hybrid_patch.config.options import parse
from hybrid_patch.cost.benchmark import BenchmarkOptions
from hybrid_patch.cost.compare import slope
from hybrid_patch.cost.isolated_memory import FailedAlone, memory_alone
from hybrid_patch.cost.timing import in_turns, interleave, interval, ratio
from hybrid_patch.errors import InputError

HUGE = "model.encoder={width:160000,depth:1,heads:4,mlp_ratio:4.0}"
"""An encoder of two terabytes."""


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40))
def test_the_interval_holds_the_median_and_lies_in_the_sample(values: list[float]) -> None:
    median, low, high = interval(values)
    assert min(values) <= low <= median <= high <= max(values)


@pytest.mark.parametrize(("n", "k"), [(3, 1), (7, 1), (8, 1), (9, 2), (15, 4), (25, 8)])
def test_the_interval_is_the_textbook_one(n: int, k: int) -> None:
    """Order statistics of the sign test at 95 % (David and Nagaraja 2003, section 7.1)."""
    assert interval([float(i) for i in range(1, n + 1)])[1:] == (k, n + 1 - k)


def test_things_are_timed_in_turns_in_random_order() -> None:
    calls: list[str] = []
    said: list[str] = []

    def run(name: str) -> dict[str, float]:
        calls.append(name)
        return {"step": float(len(calls))}

    names = ["a", "b", "c", "d"]
    seconds = interleave({name: lambda name=name: run(name) for name in names}, 6, 2, said.append)  # type: ignore[misc]
    assert calls[:8] == ["a", "a", "b", "b", "c", "c", "d", "d"]
    rounds = [calls[i : i + 4] for i in range(8, len(calls), 4)]
    assert len(rounds) == 6
    assert all(sorted(order) == names for order in rounds)
    assert len(set(map(tuple, rounds))) > 1
    assert [parts["step"] for parts in seconds["a"]] == [
        float(i + 1) for i, n in enumerate(calls) if n == "a" and i >= 8
    ]
    assert said[-1] == "round 6/6"


def test_instances_take_turns_and_a_null_of_two_has_no_side() -> None:
    """One instance is always slower; under two names, each is the slower one as often as not."""
    run = in_turns([lambda: {"step": 1.0}, lambda: {"step": 2.0}])
    seconds = interleave({"a": run, "a again": run}, 100, 2, lambda text: None)
    pairs = [(x["step"], y["step"]) for x, y in zip(seconds["a"], seconds["a again"], strict=True)]
    assert set(pairs) == {(1.0, 2.0), (2.0, 1.0)}
    assert 30 < sum(x > y for x, y in pairs) < 70


def test_ratios_are_paired() -> None:
    assert ratio([2.0, 40.0, 600.0], [1.0, 10.0, 100.0]) == (4, 2, 6)


def test_help_is_printed_and_nothing_is_run() -> None:
    line = [sys.executable, "-m", "hybrid_patch", "benchmark", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "define.NAME" in done.stdout
    assert "variants=[a,b]" in done.stdout


@pytest.mark.full
def test_the_table_of_fine_tokens_takes_two_options() -> None:
    line = [sys.executable, "-m", "tests.tools.fine_tokens", "round=3"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: round=3: unknown key; takes: rounds, output (did you mean rounds?)\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_table_of_fine_tokens(tmp_path: Path) -> None:
    output = tmp_path / "table.json"
    line = [sys.executable, "-m", "tests.tools.fine_tokens", "rounds=1", f"output={output}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    assert "decoded term, one view, T=2: (hybrid − ps8) / log-sum-exp alone" in rows
    # Memory is no timing: these hold on any machine.
    assert rows["memory of the loss at N=65536, MiB"][0] < 100
    assert rows["memory of the loss at N=65536, MiB"][0] < 6 * max(rows["memory of the loss at N=16384, MiB"][0], 4)


def test_variants_are_defined_by_name_and_can_be_added() -> None:
    plan = parse(
        BenchmarkOptions,
        ["variants=[ps8,mine]", "define.mine=[patch=hybrid,upsampler=learned]", "~data.modalities.srtm", "rounds=3"],
    )
    (configs,) = plan.points.values()
    assert list(configs) == ["ps8", "mine"]
    assert plan.rounds == 3
    assert configs["ps8"].patch.output_patch_size == 8
    assert configs["mine"].upsampler.name == "learned"
    assert "srtm" not in configs["mine"].data.modalities


@pytest.mark.full
def test_a_sweep_has_a_point_for_each_value() -> None:
    plan = parse(BenchmarkOptions, ["variants=[ps4,hybrid]", "sweep.data.tile=[16,32,64]"])
    assert plan.sweep == {"data.tile": ("16", "32", "64")}
    assert {value: point["hybrid"].data.tile for value, point in plan.points.items()} == {
        f"data.tile={tile}": tile for tile in (16, 32, 64)
    }
    assert plan.points["data.tile=16"]["ps4"].patch.processing_patch_size == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["variants=[ps8,nope]"], "variants=.*nope.*takes: ps8, ps4, ps2, ps1, hybrid, "),
        (["variants=[]"], "none named"),
        (["variants=ps8"], "not a list"),
        (["rounds=0"], "rounds=0"),
        (["limit_s=soon"], "limit_s=soon: must be a whole number"),
        (["sweep.data.tile=32"], "sweep.data.tile=32: not a list"),
        (["sweep.data.tile=[]"], "sweep.data.tile=\\[\\]: no value"),
        (["sweep.data.tile=[32]", "sweep.seed=[1]"], "sweep.data.tile sweep.seed: one key at a time"),
        (["sweep.data.tile=[32,60]"], "variant ps8: data.tile=60"),
        (["output=/no/such/folder/bench.json"], "there is no folder /no/such/folder"),
        (["data.tile=60"], "variant ps8: data.tile=60"),
        (["variant=[ps8]"], "variant=.*unknown key.*the benchmark's own keys: variants, "),
        (["--cfg"], "--cfg: no such flag; takes: --help, --version"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        parse(BenchmarkOptions, arguments)
    assert "\n" not in str(caught.value)


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "hybrid_patch", "benchmark", *arguments, *TINY]
    return subprocess.run(line, capture_output=True, text=True, timeout=280)


@pytest.mark.full
def test_a_real_run_writes_its_report(tmp_path: Path) -> None:
    output = tmp_path / "a report, [b].json"
    done = benchmark("variants=[ps8,hybrid,ps1]", "rounds=3", f"output={output}")
    assert done.returncode == 0, done.stderr
    assert "ps1/hybrid" in done.stdout
    assert "ps8 against itself" in done.stdout
    report = json.loads(output.read_text())
    assert list(report["variants"]) == ["ps8", "hybrid", "ps1"]
    for row in report["variants"].values():
        step = row["step_seconds"]
        assert 0 < step["low"] <= step["median"] <= step["high"]
        assert row["peak_memory_bytes"] > 0
        assert row["first_step_seconds"] > 0
        for figure, value in (
            ("peak_memory_bytes", row["peak_memory_bytes"]),
            ("step_seconds", row["step_seconds"]["median"]),
        ):
            planned = row["planned"][figure]
            assert planned > 0
            assert row["planned_error"][figure] == pytest.approx(planned / value - 1)
        assert row["flops_per_second"] == pytest.approx(row["flops_per_step"] / step["median"])
        assert 0 < row["share_of_peak_flops"] < 1
    ratio_of_ps1, inverse = (report["ratios"][pair]["step_seconds"]["median"] for pair in ("ps1/ps8", "ps8/ps1"))
    assert ratio_of_ps1 * inverse == pytest.approx(1)
    assert report["null"]["variant"] == "ps8"
    assert imread(tmp_path / "a report, [b].png").shape[0] > 100


@pytest.mark.full
def test_a_sweep_and_a_variant_that_fails(tmp_path: Path) -> None:
    """A variant that does not fit into memory is reported; the others are value."""
    output = tmp_path / "sweep.json"
    huge = f"define.huge=[{HUGE}]"
    done = benchmark("variants=[ps8,huge]", huge, "rounds=1", "sweep.data.tile=[8,16]", f"output={output}")
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert [point["value"] for point in report["points"]] == ["data.tile=8", "data.tile=16"]
    for point in report["points"]:
        assert "step_seconds" in point["variants"]["ps8"]
        assert "failed" in point["variants"]["huge"]
    assert set(report["exponents"]) == {"ps8"}
    assert imread(tmp_path / "sweep.png").shape[0] > 100


@pytest.mark.parametrize(
    ("overrides", "limit_s", "said"),
    [([], 0.01, r"no 2 steps in limit_s=0\.01 seconds"), ([HUGE], 100.0, "needs at least")],
)
def test_why_a_variant_cannot_be_run(overrides: list[str], limit_s: float, said: str) -> None:
    config = compose([*TINY, *overrides])
    with pytest.raises(FailedAlone, match=said):
        memory_alone(config, limit_s)


@given(exponent=st.floats(-3, 3), scale=st.floats(0.01, 100))
def test_the_exponent_of_a_power_law_is_found(exponent: float, scale: float) -> None:
    sizes = [16.0, 32.0, 64.0, 128.0]
    assert slope(sizes, [scale * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-6)

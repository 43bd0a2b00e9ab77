"""The planner: sweeps, equal shapes once, bad members and bad input."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from building import TINY

from hybrid_patch.config.compose import compose
from hybrid_patch.config.options import parse
from hybrid_patch.cost.plan import PlanOptions, plan
from hybrid_patch.cost.plan_report import plan_tables
from hybrid_patch.cost.predict import predict
from hybrid_patch.errors import InputError


def report(*arguments: str) -> dict[str, object]:
    return plan(parse(PlanOptions, [*TINY, *arguments]))


def rows_of(planned: dict[str, object]) -> Sequence[dict[str, object]]:
    rows = planned["members"]
    assert isinstance(rows, list)
    return rows


@pytest.mark.full
def test_equal_shapes_are_planned_once_and_all_members_are_told() -> None:
    planned = report("patch=ps8,hybrid", "seed=range(0,3)", "optimizer.lr=0.1,0.01")
    rows = rows_of(planned)
    assert len(rows) == 12
    assert planned["distinct_shapes"] == 2
    assert len({row["member"] for row in rows}) == 12
    assert len({row["peak_memory_bytes"] for row in rows}) == 2
    assert "patch=ps8" in str(rows[0]["member"])
    assert "logger=none" not in str(rows[0]["member"])
    assert [table.row_count for table in plan_tables(planned)] == [2, 2]


@pytest.mark.full
def test_a_bad_member_is_named_and_the_rest_is_planned() -> None:
    planned = report("data.tile=16,20", "seed=0,1")
    rows = rows_of(planned)
    assert [bool(row["error"]) for row in rows] == [False, False, True, True]
    assert "data.tile=20" in str(rows[2]["member"])
    assert "data.tile=20: not divisible by patch.processing_patch_size=8" in str(rows[2]["error"])
    assert (planned["invalid"], planned["refused"], planned["distinct_shapes"]) == (2, 0, 1)


@pytest.mark.full
def test_a_device_adds_fit_time_and_hours() -> None:
    planned = report("device=h200", "trainer.steps=100,300", "runtime=cpu")
    first, second = rows_of(planned)
    for row in (first, second):
        assert row["fits"] is True
        assert int(str(row["largest_batch"])) > 1000
    hours = [float(str(row["gpu_hours"])) for row in (first, second)]
    assert hours[1] == pytest.approx(3 * hours[0])
    assert planned["gpu_hours"] == pytest.approx(sum(hours))
    assert hours[0] == pytest.approx(float(str(first["step_seconds"])) * 100 / 3600)
    assert [table.row_count for table in plan_tables(planned)] == [2, 2, 3]


@pytest.mark.full
def test_max_memory_refuses_with_a_reason() -> None:
    planned = report("max_memory=2200kB", "patch=ps8,ps1")
    (small, large) = rows_of(planned)
    assert small["refused"] == ""
    assert "more than max_memory=2.1 MiB: activations" in str(large["refused"])
    assert planned["refused"] == 1


@pytest.mark.full
def test_undeclared_modalities_are_read_off_the_files(shared_data: Path) -> None:
    config = compose(["data=rasters", f"data.root={shared_data / 'landcover_tiles'}", "logger=none", "data.tile=16"])
    assert config.data.modalities == {}
    assert predict(config).worst.tokens.encoder > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["device=h10"], "device=h10: unknown device; takes: h100-80gb, "),
        (["seed=range(0,0)"], "seed=range.*: a sweep of no members"),
        (["max_memory=lots"], "max_memory=lots: not a number of bytes"),
        (["max_memory=0GiB"], "max_memory=0GiB"),
        (["output=/no/such/plan.json"], "there is no folder /no/such"),
        (["-m", "seed=0,1"], "-m: no such flag; takes: --help, --version"),
        (["device=h200", "device=l40s"], "device=l40s: given twice; before it was h200"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        parse(PlanOptions, arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "number"), [("40GiB", 40 * 2**30), ("500MB", 500_000_000), ("1.5KiB", 1536), ("7", 7)]
)
def test_bytes(text: str, number: int) -> None:
    assert parse(PlanOptions, [f"max_memory={text}"]).max_memory == number


@pytest.mark.full
def test_the_command_plans_in_several_processes(tmp_path: Path) -> None:
    output = tmp_path / "a plan, [b].json"
    line = [sys.executable, "-m", "hybrid_patch", "plan", f"output={output}", "patch=ps8,hybrid,ps1", "seed=0,1"]
    done = subprocess.run([*line, *TINY, "data.tile=16,20"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 2
    assert "not divisible by" in done.stderr
    assert "Traceback" not in done.stderr
    assert "patch=hybrid" in done.stdout
    rows = json.loads(output.read_text())["members"]
    assert [bool(row["error"]) for row in rows] == [False, True] * 4 + [False] * 4
    alone = predict(compose([*TINY, "patch=hybrid"]))
    assert rows[4]["flops"] == alone.flops()
    assert rows[4]["memory_bytes"] == alone.memory()

"""The measure of loading: real worker processes on real files."""

import json
from pathlib import Path

import export
import pytest

from hybrid_patch.config.options import parse
from hybrid_patch.cost import loading_benchmark
from hybrid_patch.errors import InputError


@pytest.mark.full
def test_what_loading_costs(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    export.export(
        parse(
            export.ExportOptions,
            ["samples=6", "data.scene_size=16", "data.scene_timesteps=4", "data.tile=16", f"output={folder}"],
        )
    )
    request = parse(
        loading_benchmark.LoadingOptions,
        ["steps=20", "step=9", "data=olmoearth", f"data.root={folder}", "data.tile=16", "trainer.batch_size=2"],
    )
    report = loading_benchmark.measure(request)
    assert report["workers"] == 1
    assert report["modalities"] == ["sentinel2_l2a", "sentinel1", "srtm", "worldcover"]
    assert report["samples_per_core_second"] > 0
    assert len(report["worker_memory_bytes"]) == loading_benchmark.LOOKS
    assert report["workers_needed"] == 1
    assert report["loaded_step"] is None
    json.dumps(report, allow_nan=False)
    assert loading_benchmark.table(report).row_count == 9


@pytest.mark.full
def test_what_is_left_of_a_steps_speed() -> None:
    tiny = ["model=nano", "data.scenes=4", "data.scene_size=16", "data.tile=16", "data.timesteps=1"]
    words = ["steps=10", "step=measured", *tiny, "trainer.batch_size=2"]
    report = loading_benchmark.measure(parse(loading_benchmark.LoadingOptions, words))
    assert report["workers_needed"] >= 1
    assert report["step_seconds"] == report["loaded_step"]["plain"]["median"]
    assert 0 < report["loaded_step"]["share"]["low"] <= report["loaded_step"]["share"]["high"]
    json.dumps(report, allow_nan=False)
    assert loading_benchmark.table(report).row_count == 12


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("steps=9", "steps=9: must be greater than or equal to 10"),
        ("step=fast", "step=fast: must be a number or 'measured'"),
        ("step=-1", "step=-1: must be greater than 0 or 'measured'"),
        ("data.tile=60", "data.tile=60: not divisible by"),
        ("--steps=3", "--steps=3: no such flag"),
    ],
)
def test_bad_input(argument: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(loading_benchmark.LoadingOptions, [argument])
    assert str(error.value).startswith(message)

"""The measure of loading: real worker processes on real files."""

import json
from pathlib import Path

import export
import pytest

from hybrid_patch.cost import loading_benchmark
from hybrid_patch.errors import InputError


def test_what_loading_costs(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    export.export(
        export.read(["samples=6", "data.scene_size=16", "data.scene_timesteps=4", "data.tile=16", f"output={folder}"])
    )
    request = loading_benchmark.read(
        ["steps=20", "step=9", "data=olmoearth", f"data.root={folder}", "data.tile=16", "trainer.batch_size=2"]
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


def test_what_is_left_of_a_steps_speed() -> None:
    tiny = ["model=nano", "data.scenes=4", "data.scene_size=16", "data.tile=16", "data.timesteps=1"]
    words = ["steps=10", "step=measured", *tiny, "trainer.batch_size=2"]
    report = loading_benchmark.measure(loading_benchmark.read(words))
    assert report["workers_needed"] >= 1
    assert report["step_seconds"] == report["loaded_step"]["plain"]["median"]
    assert 0 < report["loaded_step"]["share"]["low"] <= report["loaded_step"]["share"]["high"]
    json.dumps(report, allow_nan=False)
    assert loading_benchmark.table(report).row_count == 12


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("steps=9", "steps=9: takes a whole number of 10 or more"),
        ("step=fast", "step=fast: takes seconds above 0, or measured"),
        ("step=-1", "step=-1: takes seconds above 0"),
        ("data.tile=60", "data.tile=60: not divisible by"),
        ("--steps=3", "--steps=3: no such flag"),
    ],
)
def test_bad_input(argument: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        loading_benchmark.read([argument])
    assert str(error.value).startswith(message)

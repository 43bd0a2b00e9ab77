"""Lines of metrics of several steps: means, counters, stops; the throughput in the log; a trace of some steps."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from building import TINY, StopAfter, trained_run
from test_training import config_for, spoil, trainer_for, trainer_for_again

from hybrid_patch.config.compose import compose
from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.recipe import identity
from hybrid_patch.cost.devices import device_of_gpu
from hybrid_patch.cost.peak_flops import peak_flops
from hybrid_patch.report.load_runs import load_run
from hybrid_patch.report.metrics import costs
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.stop_signal import StopRequest
from hybrid_patch.train.step import SKIPPED
from hybrid_patch.train.step_metrics import StepMetrics
from hybrid_patch.train.throughput import PeakFlops, Throughput

MEANS = ("loss", "decoded", "visible", "context", "grad_norm")


@pytest.mark.full
def test_lines_are_means_and_the_weights_are_the_same(tmp_path: Path) -> None:
    """Also over a stop between two lines, which ends one early."""
    trainers = {}
    for every in (1, 4):
        config = config_for(tmp_path / str(every), f"trainer.log_every={every}", "trainer.checkpoint_every=6")
        trainer = trainer_for(config)
        assert trainer.fit(StopAfter(3))[0] == 75
        trainers[every] = trainer_for_again(trainer)
        assert trainers[every].fit(StopRequest()) == (0, "")
    single, lines = (trainers[every].run.metrics() for every in (1, 4))
    assert [(row["step"], row.get("averaged_steps", 1)) for row in lines] == [(3, 3), (4, 1), (6, 2), (8, 2), (10, 2)]
    for row in lines:
        of = single[row["step"] - row.get("averaged_steps", 1) : row["step"]]
        assert row["lr"] == of[-1]["lr"]
        for name in MEANS:
            assert row[name] == pytest.approx(sum(each[name] for each in of) / len(of))
    weights, same = (trainers[every].module.state_dict() for every in (1, 4))
    assert all(torch.equal(tensor, same[name]) for name, tensor in weights.items())
    assert trainers[4].run.covered_steps() == 10


def test_it_is_no_part_of_the_recipe() -> None:
    plain, changed = (compose([*TINY, *words]) for words in ((), ("trainer.log_every=7", "runtime.profile=3")))
    assert identity(plain)["run_id"] == identity(changed)["run_id"]


def test_bad_steps_are_counted_one_by_one(tmp_path: Path) -> None:
    trainer = trainer_for(config_for(tmp_path, "trainer.log_every=5"))
    spoil(trainer, {3, 4, 5, 7})
    assert trainer.fit(StopRequest()) == (0, "")
    rows = trainer.run.metrics()
    assert [row["bad_steps"] for row in rows] == [2, 4]
    assert all(row["loss"] is not None for row in rows)
    assert trainer.metrics.longest_bad == 3  # over the end of a line


def test_bad_steps_in_a_row_end_the_run_at_the_next_line_even_if_good_ones_follow(tmp_path: Path) -> None:
    trainer = trainer_for(config_for(tmp_path, "trainer.log_every=6", "trainer.max_bad_steps=3"))
    spoil(trainer, {1, 2, 3})
    code, reason = trainer.fit(StopRequest())
    assert code == 1
    assert reason == "no finite loss in 3 steps in a row (trainer.max_bad_steps=3), saved"
    assert [path.name for path in trainer.run.checkpoints.iterdir()] == ["step_000000006.pt"]


def test_values_stay_on_the_device_until_a_line_is_due() -> None:
    """Tensors without data, as any read of them raises."""
    metrics = StepMetrics(processes=1)
    with torch.device("meta"):
        means = {name: torch.empty(()) for name in ("loss", "grad_norm", SKIPPED)}
    for _ in range(3):
        metrics.add(means, PatchSizes(8, 1), lr=0.1)
        metrics.add_time(0.2, 0.1)
    assert len(metrics) == 3
    with pytest.raises(NotImplementedError):
        metrics.wait()


def test_patch_sizes_that_differ_within_a_line_are_not_said() -> None:
    metrics = StepMetrics(processes=2)
    for sizes, loss in ((PatchSizes(8, 8), 1.0), (PatchSizes(8, 1), 3.0)):
        means = {"loss": torch.tensor(loss), "grad_norm": torch.tensor(1.0), SKIPPED: torch.tensor(0.5)}
        metrics.add(means, sizes, lr=0.1)
        metrics.add_time(0.2, 0.1)
    row = metrics.row(2)
    expected = {"loss": 2.0, "processing_patch_size": None, "output_patch_size": None, "skipped": 2}
    assert {name: row[name] for name in expected} == expected
    assert row["step_seconds"] == pytest.approx(0.2)
    assert len(metrics) == 0


def test_a_report_counts_steps_and_not_lines(tmp_path: Path) -> None:
    words = (*TINY, "trainer.log_every=4")
    run = load_run(trained_run(tmp_path / "run", *words, steps=6))
    rows = RunDirectory(tmp_path / "run").metrics()
    assert [row["step"] for row in rows] == [4, 6]
    total = sum((row["step_seconds"] + row["data_seconds"]) * row["averaged_steps"] for row in rows)
    assert run.damage == ()
    assert costs(run.__class__(**{**vars(run), "state": "done"}))["hours"] == pytest.approx(total / 3600)


def test_the_log_tells_the_throughput_and_the_share_of_a_peak() -> None:
    sizes = PatchSizes(8, 1)
    throughput = Throughput(8, PeakFlops({sizes: 2e12}, peak=1e13))
    throughput.add(1.0, [sizes] * 2)
    throughput.add(1.0, [sizes])
    assert throughput.text() == "12 samples/s  30% of peak"
    plain = Throughput(8, None)
    plain.add(2.0, [sizes])
    assert plain.text() == "4 samples/s"


def test_peaks_are_of_published_gpus_and_left_out_on_a_cpu() -> None:
    device = device_of_gpu("NVIDIA H100 80GB HBM3")
    assert device is not None
    assert device.name == "h100-80gb"
    assert device_of_gpu("NVIDIA GeForce GTX 970") is None
    assert peak_flops(compose([*TINY, "runtime.device=cpu"])) is None


def events_of(run: Path) -> list[dict[str, Any]]:
    with gzip.open(run / "profile.json.gz") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return events


@pytest.mark.full
def test_a_profile_traces_some_steps_with_their_phases_and_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        plain = trained_run(tmp_path / "plain", *TINY, steps=5)
        traced = trained_run(tmp_path / "traced", *TINY, "runtime.profile=2", steps=5)
        trained_run(tmp_path / "short", *TINY, "runtime.profile=2", steps=3)
    names = [event["name"] for event in events_of(traced) if event.get("cat") == "user_annotation"]
    assert [names.count(name) for name in ("forward", "backward", "encoder")] == [2, 2, 2]
    assert {"ProfilerStep#3", "ProfilerStep#4"} <= set(names)
    losses = [[row["loss"] for row in RunDirectory(run).metrics()] for run in (plain, traced)]
    assert losses[0] == losses[1]
    saving = trained_run(tmp_path / "saving", *TINY, "runtime.profile=5", "trainer.checkpoint_every=3", steps=8)
    names = [event["name"] for event in events_of(saving) if event.get("cat") == "user_annotation"]
    assert names.count("forward") == 2  # the fifth and sixth: a save is before them, and one after
    assert not (tmp_path / "short" / "profile.json.gz").exists()
    assert "runtime.profile: no trace; a start makes 3 steps before it" in caplog.text

"""The check of a GPU, as far as a CPU can take its place; and that it notices what is wrong."""

import json
from pathlib import Path
from typing import Any

import gpu_check
import pytest
import torch

from hybrid_patch.config.options import parse
from hybrid_patch.errors import InputError
from hybrid_patch.loss import logsumexp


def test_backends_are_held_to_the_reference() -> None:
    result = gpu_check.backends("cpu")
    assert result["ok"]
    assert result["relative_errors"]["chunked"] < 1e-5
    assert "runs on a GPU" in result["relative_errors"]["efficient_cuda"]


def test_a_wrong_backend_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = logsumexp.log_sum_exp
    monkeypatch.setattr(logsumexp, "log_sum_exp", lambda *inputs: right(*inputs) * 1.001)
    assert gpu_check.backends("cpu")["ok"] is False


@pytest.mark.full
def test_a_step_and_a_resumed_run() -> None:
    step = gpu_check.step_against_cpu("cpu")
    assert step["ok"]
    assert step["relative_errors"]["gradients, 32-true"] == 0
    assert 0 < step["relative_errors"]["terms, bf16-mixed"] < 0.05
    resumed = gpu_check.resumed_run("cpu")
    assert resumed == {"ok": True, "relative_error": 0.0, "to_the_last_bit": True}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_no_step_waits_for_the_gpu() -> None:
    assert gpu_check.no_waiting("cuda") == {"ok": True}


def test_the_report_is_written_whatever_a_check_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def breaks(device: str) -> dict[str, Any]:
        raise RuntimeError("no kernel image")

    for name in ("backends", "step_against_cpu", "resumed_run"):
        monkeypatch.setattr(gpu_check, name, breaks)
    report = gpu_check.check(gpu_check.CheckOptions(output=tmp_path / "gpu.json", seconds=0, device="cpu"))
    assert report["ok"] is False
    assert report["checks"]["breaks"] == {"ok": False, "why": "RuntimeError: no kernel image"}
    assert report["benchmarks"] == [{"title": "nano, 1 dates", "failed": "no time left"}]
    assert [row["found"] for row in report["must_reach"]] == [None] * 3
    json.dumps(report, allow_nan=False)
    assert gpu_check.table(report).row_count == 2 + 1 + 3


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seconds=soon", "seconds=soon: must be a whole number"),
        ("device=tpu", "device=tpu: takes cpu, or cuda where torch finds a GPU"),
        ("model=base", "model=base: unknown key; takes: output, seconds, device"),
        ("output=/no/such/gpu.json", "output=/no/such/gpu.json: there is no folder /no/such"),
    ],
)
def test_bad_input(argument: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(gpu_check.CheckOptions, [argument])
    assert str(error.value).startswith(message)

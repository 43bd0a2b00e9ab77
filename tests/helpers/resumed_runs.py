"""What tests compare between a run that was stopped and one that was not."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import torch


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Every line, without times and memory."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.endswith(("_seconds", "_bytes"))} for row in rows]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until the run has written the metrics of a step."""
    path = run_dir / "metrics.jsonl"
    for _ in range(2000):
        if path.exists() and path.read_text().count("\n") >= step:
            return
        assert process.poll() is None, "the run ended too early"
        time.sleep(0.05)
    raise TimeoutError

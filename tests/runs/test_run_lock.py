"""One attempt at a time writes to a run, whatever the others believe."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from building import TINY
from hypothesis import given
from hypothesis import strategies as st

from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_json
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.lock import STALE_SECONDS, Holder, LostLockError, is_alive


def holder_of(run: RunDirectory) -> dict[str, object]:
    return json.loads((run.path / "lock.json").read_text())


def test_the_twin_of_a_requeued_job_takes_over_and_the_orphan_can_write_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    orphan, twin = RunDirectory(tmp_path), RunDirectory(tmp_path)
    orphan.lock()
    orphan.add_metrics({"step": 1})
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    twin.lock()
    for write in (
        lambda: orphan.add_metrics({"step": 2}),
        lambda: orphan.set_status("running"),
        lambda: orphan.restore_metrics(0),
        lambda: orphan.begin("", {}),
    ):
        with pytest.raises(LostLockError):
            write()
    twin.add_metrics({"step": 2})
    assert [row["step"] for row in twin.metrics()] == [1, 2]
    orphan.unlock()  # not its own any more
    assert holder_of(twin)["restart"] == "1"
    twin.unlock()
    assert twin.holder() is None


def test_another_job_waits_for_the_living_and_not_for_the_dead(tmp_path: Path) -> None:
    script = (
        f"from pathlib import Path; from hybrid_patch.runs.directory import *; RunDirectory(Path({str(tmp_path)!r}))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", f"{script}.lock(); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    run = RunDirectory(tmp_path)
    with pytest.raises(InputError, match=f"process {child.pid}"):
        run.lock()
    child.kill()
    child.wait()
    run.lock()
    assert holder_of(run)["pid"] == os.getpid()


def test_another_process_with_the_number_of_a_dead_one_holds_no_lock(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.lock()
    holder = run.holder()
    assert holder is not None
    assert is_alive(holder, 0.0)
    earlier = replace(holder, began=holder.began - 1000, token="another")  # type: ignore[operator]
    assert not is_alive(earlier, time.time())
    write_json(tmp_path / "lock.json", asdict(earlier))
    RunDirectory(tmp_path).lock()
    assert holder_of(run)["began"] == holder.began


@given(st.floats(0, 10 * STALE_SECONDS), st.booleans())
def test_on_another_machine_the_heartbeat_decides(age: float, same_job: bool) -> None:
    now = time.time()
    holder = Holder(
        token="", host="n1", machine="elsewhere", pid=1, began=0.0, job="5" if same_job else None, restart="0",
        time=now - 20 * STALE_SECONDS,
    )  # fmt: skip
    assert is_alive(holder, now - age) == (age < STALE_SECONDS) or abs(age - STALE_SECONDS) < 1


def test_heartbeats_come_during_a_long_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_patch.runs.directory.HEARTBEAT_SECONDS", 0.02)
    run = RunDirectory(tmp_path)
    run.lock()
    run.set_status("running", step=0)
    before = run.status().heartbeat
    with run.heartbeats():
        run.add_metrics({"step": 3})
        while run.status().heartbeat == before:
            time.sleep(0.01)
    assert run.status().step in (0, 3)
    run.set_status("done", step=4)
    assert run.status().state == "done"


def test_a_training_that_has_lost_its_run_ends_with_76(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hybrid_patch.train", *TINY, "trainer.steps=5000", f"run_dir={tmp_path / 'run'}"],
        env={**os.environ, "SLURM_JOB_ID": "7"},
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists():
        assert process.poll() is None
        time.sleep(0.05)
    lock = tmp_path / "run" / "lock.json"
    taken = json.loads(lock.read_text()) | {"token": "another's", "restart": "1"}
    write_json(lock, taken)  # whole, as an attempt writes it: a half-written lock would be set aside as damaged
    printed = process.communicate(timeout=100)[1]
    assert process.returncode == 76, printed
    assert "this attempt has lost the run" in printed
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "running"
    assert json.loads(lock.read_text()) == taken

"""The same run, whatever the number of processes and the strategy by which they share the work."""

from pathlib import Path

import pytest
import torch
from ranks import Ranked, same_to, state_of, train_together, weights_of

from hybrid_patch.runs.directory import RunDirectory

pytestmark = pytest.mark.full

WAYS = {
    "ddp on 2": (2, ["runtime=ddp"]),
    "fsdp on 2": (2, ["runtime=fsdp"]),
    "ddp on 4": (4, ["runtime=ddp"]),
    "fsdp on 4": (4, ["runtime=fsdp"]),
    "fsdp in parts": (2, ["runtime=fsdp", "runtime.accumulate=2"]),
    "fsdp, recomputed": (2, ["runtime=fsdp", "runtime.gradient_checkpointing=true"]),
}


def test_one_two_and_four_processes_train_the_same_weights(tmp_path: Path) -> None:
    """To 1e-6, in float32. Adam divides a gradient by its own size: where it is about 0, rounding moves a weight by a
    part of the learning rate, which is therefore a tenth of the usual one here (with that, one weight of 50,000 was
    2.5e-6 apart).
    """
    common = ("trainer.steps=6", "optimizer.lr=1e-4")
    alone = Ranked(str(tmp_path / "alone"), 1, common)
    others = [Ranked(str(tmp_path / name), n, (*overrides, *common)) for name, (n, overrides) in WAYS.items()]
    train_together(tmp_path, alone, *others)
    expected, rows = weights_of(tmp_path / "alone"), RunDirectory(tmp_path / "alone").metrics()
    for run in others:
        same_to(1e-6, weights_of(Path(run.folder)), expected)
        for row, alike in zip(rows, RunDirectory(Path(run.folder)).metrics(), strict=True):
            for name in ("loss", "decoded", "visible", "context", "reconstruct", "grad_norm"):
                assert alike[name] == pytest.approx(row[name], rel=1e-5)


def test_a_loss_that_is_not_finite_in_one_process_changes_no_shard(tmp_path: Path) -> None:
    every = ("trainer.steps=3", "trainer.checkpoint_every=1", "trainer.keep_checkpoints=3")
    train_together(tmp_path, Ranked(str(tmp_path / "run"), 2, ("runtime=fsdp", *every), spoilt=2))
    first, second, third = (state_of(tmp_path / "run", step) for step in (1, 2, 3))
    assert [state["counters"]["bad_steps"] for state in (first, second, third)] == [0, 1, 1]
    for part in ("model", "objective"):
        for name, tensor in first[part].items():
            assert torch.equal(second[part][name], tensor)
    head = "terms.visible.head.weight"
    assert not torch.equal(third["objective"][head], first["objective"][head])
    assert [row["loss"] is None for row in RunDirectory(tmp_path / "run").metrics()] == [False, True, False]

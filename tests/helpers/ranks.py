"""Runs of several processes that are started once and train one run after the other, and what is in their checkpoints.

As a script, `python ranks.py RUNS RANK`, it is one of these processes.
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from building import TINY
from torch import Tensor

from hybrid_patch.config.compose import compose
from hybrid_patch.runs.checkpoint_files import list_checkpoints
from hybrid_patch.runs.checkpoints import read_checkpoint
from hybrid_patch.train.attempt import train
from hybrid_patch.train.step import TrainingModule

TERMS = ("upsampler=guided", "loss.reconstruct.weight=0.5", "trainer.batch_size=4")
"""All terms of the loss, and samples for four processes."""


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A run to train.

    Attributes:
        folder: the run's directory.
        processes: that train it.
        overrides: beside those of `TINY` and `TERMS`.
        spoilt: the step at which the loss of the last process is not finite.
    """

    folder: str
    processes: int
    overrides: tuple[str, ...]
    spoilt: int | None = None


def train_together(folder: Path, *runs: Ranked) -> None:
    """Train runs, one after the other."""
    plan = folder / "runs.json"
    ports = _ports(len(runs))
    plan.write_text(json.dumps([[port, dataclasses.asdict(run)] for port, run in zip(ports, runs, strict=True)]))
    world = max(run.processes for run in runs)
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(plan), str(rank)],
            env={**os.environ, "PYTHONPATH": path, "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    said = [process.communicate(timeout=280)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * world, "\n".join(said)


def state_of(run_dir: Path, step: int | None = None) -> dict[str, Any]:
    """Of the checkpoint after a step, or of the newest one."""
    states = dict(list_checkpoints(run_dir / "checkpoints"))
    return dict(read_checkpoint(states[max(states) if step is None else step]))


def weights_of(run_dir: Path) -> dict[str, Tensor]:
    """The newest, without the biases of keys: softmax takes the same off all of a query's products, so that they change
    nothing. Their gradients are what rounding makes of 0, and Adam divides them by their own size.
    """
    weights: dict[str, Tensor] = {}
    state = state_of(run_dir)
    for name, tensor in {**state["model"], **state["objective"]}.items():
        if name.endswith("qkv.bias"):
            query, _, value = tensor.chunk(3)
            tensor = torch.cat([query, value])
        weights[name] = tensor
    return weights


def same_to(tolerance: float, states: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Whether all weights are the same to within so much."""
    assert states.keys() == expected.keys()
    for name, tensor in expected.items():
        message = f"{name}: {{}}".format  # takes the message of assert_close
        torch.testing.assert_close(states[name], tensor, rtol=0, atol=tolerance, msg=message)


def _ports(count: int) -> list[int]:
    """Some that are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return numbers


def _spoil(step: int) -> Any:
    """Make the loss of that call of the training module not finite. Returns what ends it."""
    calls = 0

    def hook(module: torch.nn.Module, inputs: Any, terms: Any) -> Any:
        nonlocal calls
        if not isinstance(module, TrainingModule):
            return terms
        calls += 1
        return {**terms, "loss": terms["loss"] * torch.nan} if calls == step else terms

    return torch.nn.modules.module.register_module_forward_hook(hook)


def _process(plan: Path, rank: int) -> None:
    for port, fields in json.loads(plan.read_text()):
        run = Ranked(**fields)
        if rank >= run.processes:
            continue
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        count = f"runtime.processes={run.processes}"
        config = compose([*TINY, *TERMS, "runtime.device=cpu", *run.overrides, count, f"run_dir={run.folder}"])
        spoiling = _spoil(run.spoilt) if run.spoilt is not None and rank == run.processes - 1 else None
        assert train(config) == 0
        if spoiling is not None:
            spoiling.remove()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _process(Path(sys.argv[1]), int(sys.argv[2]))

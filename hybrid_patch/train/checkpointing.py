"""What the processes of a run do together about its checkpoints: the weights may be whole in each, or in parts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from hybrid_patch.config.schema import Config
from hybrid_patch.loss.objective import Objective
from hybrid_patch.model.hybrid import HybridModel
from hybrid_patch.runs.checkpoints import (
    checkpoint_path,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.sharded_checkpoint import write_sharded
from hybrid_patch.train import fsdp
from hybrid_patch.train.distributed import together


def save(fabric: Fabric, run: RunDirectory, step: int, state: dict[str, Any], keep: int) -> None:
    """Save the state after `step` steps: a file of the first process or, where it is sharded, a folder of all.

    The metrics so far are on the disk before.

    Args:
        state: `objective` and `optimizer` are state dicts, as they are in this process.
        keep: all but the newest so many checkpoints are removed.
    """
    first, folder = fabric.is_global_zero, run.checkpoints
    if first:
        run.flush_metrics()
    if not fsdp.is_sharded(state["objective"]):
        if first:
            save_checkpoint(folder, step, state, keep, run.held())
    elif not fabric.broadcast(step in dict(list_checkpoints(folder))):  # a stop right after it was saved
        write_sharded(checkpoint_path(folder, step, sharded=True), state, run.held())
        if first:
            prune_checkpoints(folder, keep)
    fabric.barrier()


def newest(fabric: Fabric, folder: Path) -> tuple[int, dict[str, Any]] | None:
    """`newest_checkpoint`, the same in all processes: the first one finds it, and says which are damaged.

    Raises InputError in the first process if all are damaged; the others end.
    """
    found: list[tuple[int, dict[str, Any]]] = []

    def find() -> None:
        newest = newest_checkpoint(folder)
        if newest is not None:
            found.append(newest)

    together(fabric, find)
    step = fabric.broadcast(found[0][0] if found else None)
    if step is None or found:
        return found[0] if found else None
    return step, read_checkpoint(dict(list_checkpoints(folder))[step])


def restore(objective: Objective, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state, whole as it was saved, into weights and an optimizer that may be sharded over any number of
    processes. Each takes its parts; nothing is sent."""
    own = objective.state_dict()
    weights: Mapping[str, Tensor] = state["objective"]
    objective.load_state_dict(
        {name: fsdp.parted(tensor, own[name]) if name in own else tensor for name, tensor in weights.items()}
    )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    of_each: Mapping[int, Mapping[str, Tensor]] = state["optimizer"]["state"]
    parts = {
        index: {name: fsdp.parted(tensor, parameters[index]) for name, tensor in values.items()}
        for index, values in of_each.items()
    }
    optimizer.load_state_dict({**state["optimizer"], "state": parts})


def whole_network(fabric: Fabric, config: Config, objective: Objective) -> HybridModel | None:
    """The model for the first process to look at; None in the others, which must call this too.

    Sharded weights are gathered one by one into a model of their own, on the CPU: whether a device has room for all of
    them is for the caller to find out.
    """
    weights = objective.model.state_dict()
    if not fsdp.is_sharded(weights):
        return objective.model if fabric.is_global_zero else None
    network = HybridModel(config, objective.modalities) if fabric.is_global_zero else None
    own = network.state_dict() if network is not None else {}
    for name, tensor in weights.items():
        gathered = fsdp.whole(tensor)
        if own:
            own[name].copy_(gathered)
    return network

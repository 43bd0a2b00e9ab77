"""Checkpoints of a run in several processes, each of which holds all weights or a shard of them."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from hybrid_patch.config.schema import Config
from hybrid_patch.errors import InputError
from hybrid_patch.model.hybrid import HybridModel, build_model
from hybrid_patch.runs import checkpoints
from hybrid_patch.runs.atomic_files import write_whole
from hybrid_patch.runs.checkpoint_files import (
    checkpoint_path,
    list_checkpoints,
    prune_checkpoints,
    remove_checkpoints_after,
)
from hybrid_patch.runs.checkpoints import Checkpoint, State, Weights, first_difference
from hybrid_patch.runs.directory import METRICS, RunDirectory
from hybrid_patch.runs.records import DamagedFileError, set_aside
from hybrid_patch.train import fsdp
from hybrid_patch.train.distributed import together
from hybrid_patch.train.step import TrainingModule


def save(
    fabric: Fabric, run: RunDirectory, step: int, state: dict[str, Any], keep_newest: int, best: int | None = None
) -> None:
    """Save the metrics, then the state after `step` steps: a file by the first process or, if sharded, a folder by all.

    The state holds this process's state dicts `model`, `objective` and `optimizer`. The checkpoint of the best step
    stays beside the newest.
    """
    first, folder = fabric.is_global_zero, run.checkpoints
    if first:
        run.flush_metrics()
    if not fsdp.is_sharded(state["model"]):
        if first:
            path = checkpoint_path(folder, step)
            write_whole(path, lambda file: torch.save(state, file), run.held())
    elif not fabric.broadcast(step in dict(list_checkpoints(folder))):  # a stop right after it was saved
        from hybrid_patch.runs.sharded_checkpoint import write_sharded

        write_sharded(checkpoint_path(folder, step, sharded=True), state, run.held())
    if first:
        with run.held():
            prune_checkpoints(folder, keep_newest, best)
    fabric.barrier()


def end_with(fabric: Fabric, run: RunDirectory, step: int) -> None:
    """Remove what a finished training saved after the step of its best weights, which are then its newest."""
    if fabric.is_global_zero:
        with run.held():
            remove_checkpoints_after(run.checkpoints, step)
    fabric.barrier()


def restore_weights(fabric: Fabric, run: RunDirectory, module: TrainingModule, step: int) -> None:
    """Load the weights of a step, of which each process takes its shards. If their checkpoint cannot be read, the
    first process raises DamagedFileError, and the others end."""
    path = next((path for number, path in list_checkpoints(run.checkpoints) if number == step), None)
    if path is None:
        path = checkpoint_path(run.checkpoints, step)
    state = together(fabric, lambda: checkpoints.read_checkpoint(path))
    _load_weights(module, checkpoints.read_checkpoint(path) if state is None else state)


def _load_weights(module: TrainingModule, state: State) -> None:
    parts: dict[Weights, Module] = {"model": module.model, "objective": module.objective}
    for name, part in parts.items():
        current = part.state_dict()
        part.load_state_dict({key: fsdp.shard_like(tensor, current[key]) for key, tensor in state[name].items()})


def newest(fabric: Fabric, run: RunDirectory) -> Checkpoint | None:
    """The newest checkpoint that the metrics cover, read by the first process for all. If it raises InputError, the
    others end."""
    checkpoint = together(fabric, lambda: _newest(run))
    newest = fabric.broadcast(None if checkpoint is None else (checkpoint.step, checkpoint.path))
    if newest is None or checkpoint is not None:
        return checkpoint
    step, path = newest
    return Checkpoint(step, checkpoints.read_checkpoint(path), path)


def _newest(run: RunDirectory) -> Checkpoint | None:
    path, saved = run.path / METRICS, list_checkpoints(run.checkpoints)
    remedy = f"move it away to go on without its lines, and also {run.checkpoints} to begin the run anew"
    try:
        covered = run.covered_steps()
        if covered is not None and saved and covered < saved[0][0]:
            why = f"it has the first {covered} steps, and the first checkpoint is of step {saved[0][0]}"
            raise DamagedFileError(path, why)
    except DamagedFileError as error:
        if saved:
            raise error.with_remedy(remedy) from None
        with run.held():
            set_aside(path)
        covered = None
    return checkpoints.newest_checkpoint(run.checkpoints, covered, run.held)


def of_another_run(fabric: Fabric, module: TrainingModule, checkpoint: Checkpoint, run: str) -> Checkpoint:
    """The checkpoint that a training goes on from (`continue_from`), with the frozen targets of the module.

    Another curriculum needs targets of other patch sizes, and other windows have another teacher. Weights that scored
    better and are not these have stayed in the other run. Raises InputError in the first process, and ends the others,
    if the module's other weights are not those of the run.
    """
    prefix, current = module.objective.frozen_targets, module.objective.state_dict()
    targets = {name: fsdp.full(tensor).cpu() for name, tensor in current.items() if name.startswith(prefix)}
    heads = {name: tensor for name, tensor in checkpoint.state["objective"].items() if not name.startswith(prefix)}
    state: State = {**checkpoint.state, "objective": heads | targets}
    if "best" in state and state["best"]["step"] != checkpoint.step:
        del state["best"]
    continued = checkpoint._replace(state=state)

    def refuse() -> None:
        parts: dict[Weights, Module] = {"model": module.model, "objective": module.objective}
        for name, part in parts.items():
            if change := first_difference(part.state_dict(), continued.state[name]):
                remedy = f"keep what shapes weights as it was, or begin anew with init.from={run}"
                raise InputError(f"continue_from={run}: the config gives other weights ({name}.{change}); {remedy}")

    together(fabric, refuse)
    return continued


def restore(fabric: Fabric, module: TrainingModule, optimizer: Optimizer, checkpoint: Checkpoint) -> None:
    """Load a full state into weights and an optimizer, of which each process takes its shards; nothing is sent.

    If the weights are those of another model version, the first process raises InputError, and the others end.
    """
    state = checkpoint.state
    parts: dict[Weights, Module] = {"model": module.model, "objective": module.objective}
    current = {name: part.state_dict() for name, part in parts.items()}
    together(fabric, lambda: [checkpoint.refuse_other_weights(name, weights) for name, weights in current.items()])
    _load_weights(module, state)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    together(fabric, lambda: refuse_other_optimizer(checkpoint, optimizer, parameters))
    states = {
        index: {name: fsdp.shard_like(tensor, parameters[index]) for name, tensor in values.items()}
        for index, values in state["optimizer"]["state"].items()
    }
    optimizer.load_state_dict({**state["optimizer"], "state": states})


def refuse_other_optimizer(checkpoint: Checkpoint, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
    """Raises InputError if the optimizer's state is not one of these parameters."""
    saved, groups = checkpoint.state["optimizer"], optimizer.state_dict()["param_groups"]
    different = [
        f"the state of parameter {index}"
        for index, values in saved["state"].items()
        if not 0 <= index < len(parameters)
        or any(tensor.dim() and tensor.shape != parameters[index].shape for tensor in values.values())
    ]
    if [(group.keys(), group["params"]) for group in groups] != [
        (group.keys(), group.get("params")) for group in saved["param_groups"]
    ]:
        different.append("the groups of parameters")
    if different:
        remedy = "move it away to go on from the one before, or use that version"
        raise InputError(f"{checkpoint.path}: the optimizer there is another ({different[0]}); {remedy}")


def full_model(fabric: Fabric, config: Config, module: TrainingModule) -> HybridModel | None:
    """The model in the first process, for its evaluation; None in the others, which must call this too.

    Sharded weights are gathered one by one into a separate model on the CPU, since they may not fit a device.
    """
    weights = module.model.state_dict()
    if not fsdp.is_sharded(weights):
        return module.model if fabric.is_global_zero else None
    model = build_model(config, module.objective.modalities, module.model.classes) if fabric.is_global_zero else None
    copies = model.state_dict() if model is not None else {}
    for name, tensor in weights.items():
        gathered = fsdp.full(tensor)
        if copies:
            copies[name].copy_(gathered)
    return model

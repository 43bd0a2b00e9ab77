"""Sharded checkpoints: every process writes its own shards, and one process can read the whole."""

import enum
import os
import pickle
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata, state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException

from hybrid_patch.runs.atomic_files import flush_folder, write_whole

REST = "rest.pt"
"""Everything but the tensors of the weights and the optimizer."""
WEIGHTS = ("model", "objective")
ALLOWED = {
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}
"""The classes, all inert, that a checkpoint's metadata, a pickle, may name."""


def write_sharded(path: Path, state: Mapping[str, Any], permit: AbstractContextManager[None]) -> None:
    """Write a state with sharded weights and optimizer as a folder: whole, or not at all.

    All processes must call this. If one cannot write its shards (a full disk), torch raises in all, and none waits. The
    first process writes the rest, and names the folder within `permit`.
    """
    first = dist.get_rank() == 0
    parts = path.with_name(f".{path.name}.{os.getpid()}.part")  # an attempt that has lost the run may still be writing
    if first:
        parts.mkdir(parents=True)
    shared = [parts.name]
    dist.broadcast_object_list(shared)
    parts = path.with_name(shared[0])
    state_dict_saver.save(_tensors(state), storage_writer=filesystem.FileSystemWriter(parts))  # waits for the disk
    if first:
        rest = {name: value for name, value in state.items() if name not in (*WEIGHTS, "optimizer")}
        rest["param_groups"] = state["optimizer"]["param_groups"]
        write_whole(parts / REST, lambda file: torch.save(rest, file))
        with permit:
            parts.replace(path)
        flush_folder(path.parent)


def read_sharded(path: Path) -> dict[str, Any]:
    """The state that any number of processes wrote, on the CPU, as a single file would hold it.

    Needs no process group, and runs no code from the checkpoint. Raises torch's or pickle's errors, or OSError, if a
    part is lost.
    """
    state: dict[str, Any] = torch.load(path / REST, map_location="cpu", weights_only=True)
    reader = _Reader(path)
    entries = reader.read_metadata().state_dict_metadata
    tensors: dict[str, Any] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, metadata.TensorStorageMetadata)
    }
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # on purpose
            state_dict_loader.load(tensors, storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None
    state |= {name: {} for name in WEIGHTS}
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, key = name.split(".", 1)
        if owner in WEIGHTS:
            state[owner][key] = tensor
        else:
            index, key = key.split(".", 1)
            optimizer.setdefault(int(index), {})[key] = tensor
    state["optimizer"] = {"state": optimizer, "param_groups": state.pop("param_groups")}
    return state


def _member(kind: object, name: str) -> enum.Enum:
    """A member of an enum, and no attribute of anything else."""
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum) and name in kind.__members__):
        raise pickle.UnpicklingError(f"{name!r} of {kind!r} does not belong in a checkpoint")
    return kind[name]


class _MetadataUnpickler(pickle.Unpickler):
    """Raises UnpicklingError for classes that are not `ALLOWED`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):  # Python 3.11.0 to 3.11.3 pickle a member of an enum by it
            return _member
        if name not in ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in a checkpoint")
        return super().find_class(module, name)


class _Reader(filesystem.FileSystemReader):
    """Unpickles `ALLOWED` classes only: torch's own reader would run whatever code the metadata names."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        try:
            with (Path(self.path) / ".metadata").open("rb") as file:
                table = _MetadataUnpickler(file).load()
        except (AttributeError, ImportError, IndexError, TypeError) as error:  # what else a damaged pickle may raise
            raise pickle.UnpicklingError(f"its table of parts is damaged: {error}") from None
        if not isinstance(table, metadata.Metadata):
            raise pickle.UnpicklingError("it has no table of its parts")
        return table


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state's weights and optimizer by unique names."""
    tensors = {f"{owner}.{name}": tensor for owner in WEIGHTS for name, tensor in state[owner].items()}
    for index, values in state["optimizer"]["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in values.items()}
    return tensors

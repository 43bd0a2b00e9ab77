"""Checkpoints: whole or absent; the newest readable one is found without being named."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict

from hybrid_patch.errors import InputError
from hybrid_patch.runs.checkpoint_files import list_checkpoints
from hybrid_patch.runs.records import DamagedFileError, require_file, set_aside

log = logging.getLogger(__name__)


class Counters(TypedDict):
    """Of steps without a finite loss, in all and lately, and of skipped samples."""

    bad_steps: int
    bad_in_a_row: int
    skipped: int


class Best(TypedDict):
    """The best score on validation tiles, the step of its weights, and the step of the last score."""

    score: float
    step: int
    scored: int


class State(TypedDict):
    """What a checkpoint holds: state dicts, the modalities with their statistics as plain values, the classes that a
    head predicts, and of a fine-tuning which weights were best so far."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, extra="forbid", strict=True)  # type: ignore[misc]

    model: dict[str, Tensor]
    objective: dict[str, Tensor]
    optimizer: "OptimizerState"
    counters: Counters
    modalities: dict[str, dict[str, Any]]
    classes: list[str]
    best: NotRequired[Best]


class OptimizerState(TypedDict):
    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, extra="forbid", strict=True)  # type: ignore[misc]

    state: dict[int, dict[str, Tensor]]
    param_groups: list[dict[str, Any]]


STATES = TypeAdapter(State)
Weights = Literal["model", "objective"]


class Checkpoint(NamedTuple):
    """The state that was saved after a step, on the CPU, and the file or folder it was read from."""

    step: int
    state: State
    path: Path

    def refuse_other_weights(self, part: Weights, expected: Mapping[str, Tensor]) -> None:
        """Raises InputError if a part's weights have other names or shapes than expected."""
        if change := first_difference(expected, self.state[part]):
            remedy = f"use that version, or remove {self.path.parent} to begin the run anew"
            raise InputError(f"{self.path}: saved by another version of hybrid_patch ({part}.{change}); {remedy}")


def first_difference(current: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str:
    """Of two states, the first name that is missing in one or has another shape; empty if there is none."""
    for name in {**current, **saved}:
        shape, saved_shape = (str(list(w[name].shape)) if name in w else "absent" for w in (current, saved))
        if shape != saved_shape:
            return f"{name} is {saved_shape} there, {shape} here"
    return ""


def read_checkpoint(path: Path) -> State:
    """The state of a checkpoint of either form, on the CPU, without running code from it. Raises DamagedFileError."""
    try:
        if path.suffix == ".pt":
            require_file(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            from hybrid_patch.runs.sharded_checkpoint import read_sharded

            state = read_sharded(path)
        return STATES.validate_python(state)
    except (MemoryError, DamagedFileError):
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise DamagedFileError(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except OSError as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):  # a part is lost
            raise
        raise DamagedFileError(path, error) from None
    except Exception as error:  # whatever torch and pickle make of garbage
        raise DamagedFileError(path, (str(error).splitlines() or [type(error).__name__])[0]) from None


def newest_checkpoint(
    folder: Path, covered: int | None = None, permit: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Checkpoint | None:
    """The newest checkpoint, of at most `covered` steps; None if there is none. Others are reported and moved aside,
    within `permit`, which may raise.

    Raises InputError if none is left: whether to begin the run anew is for a person to decide.
    """
    checkpoints = list_checkpoints(folder)
    for step, path in reversed(checkpoints):
        if covered is not None and step > covered:
            log.warning("%s is ahead of the metrics, which end at step %d; trying the one before it", path, covered)
            with permit():
                set_aside(path, "ahead")
            continue
        try:
            return Checkpoint(step, read_checkpoint(path), path)
        except DamagedFileError as error:
            log.warning("%s; trying the one before it", error)
            with permit():
                set_aside(path)
    if checkpoints or any(folder.glob("*.damaged*")):
        raise InputError(f"{folder}: no checkpoint there can be read; remove the folder to begin the run anew")
    return None

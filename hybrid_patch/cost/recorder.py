"""Record the FLOPs, memory traffic and allocations of a training step, on real or fake tensors."""

import dataclasses
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hybrid_patch.cost.torch_internals import (
    PART_BEGINS,
    PART_ENDS,
    TorchDispatchMode,
    backward_node,
    flops,
    in_place,
    next_node,
    tensors_in,
)
from hybrid_patch.model.profiling import LOSS

Phase = Literal["forward", "backward", "optimizer"]
MemoryClass = Literal["parameters", "gradients", "optimizer", "activations", "temporary"]
"""What memory is used for. Parameters include buffers; activations include the batch, and whatever is alive between
the forward and the backward pass."""


@dataclasses.dataclass(frozen=True)
class Record:
    """The cost of a step.

    Attributes:
        flops: by phase and part.
        work: of each operation, `[n, 3]`: FLOPs, bytes read and written, and whether its numbers have 16 bits. Views
            are left out; equal operations may share a row.
        repeats: `[n]` how often.
        allocated: `[events]` bytes allocated after each allocation and each release.
        passes: number of events of the forward and backward pass.
        peak: bytes by class at the moment of highest memory.
        peak_parts: bytes of activations and temporary tensors at that moment, by part.
        peak_phase: the phase of that moment.
    """

    flops: dict[tuple[Phase, str], int]
    work: Float[np.ndarray, "n 3"]
    repeats: Int[np.ndarray, " n"]
    allocated: Int[np.ndarray, " events"]
    passes: int
    peak: dict[MemoryClass, int]
    peak_parts: dict[str, int]
    peak_phase: Phase


@dataclasses.dataclass
class _Storage:
    """A block of memory, which several tensors may share."""

    bytes: int
    kind: MemoryClass
    part: str


class Recorder(TorchDispatchMode):
    """A dispatch mode to run a step under: `hold` what exists before, run `phase` by `phase`, then `record`."""

    def __init__(self) -> None:
        super().__init__()
        self._phase: Phase = "forward"
        self._parts = [LOSS]
        self._part_of_node: list[str] = []
        self._first_node = next_node()
        self._flops: Counter[tuple[Phase, str]] = Counter()
        self._work: Counter[tuple[int, int, bool]] = Counter()
        self._storages: list[_Storage] = []
        self._alive: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._events: list[tuple[int, int, Phase]] = []

    def hold(self, tensors: Iterable[Tensor], kind: MemoryClass) -> None:
        """Count existing tensors; those that are counted already change their class."""
        for tensor in tensors:
            self._storages[self._storage_of(tensor)].kind = kind

    def held(self, tensor: Tensor, kind: MemoryClass) -> Tensor:
        """`hold` one tensor, and return it."""
        self.hold([tensor], kind)
        return tensor

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Context of a phase of the step."""
        self._phase = name
        with self:
            yield
        if name == "forward":
            self._name_nodes()
            for number, _ in self._alive.values():
                if self._storages[number].kind == "temporary":
                    self._storages[number].kind = "activations"

    def record(self) -> Record:
        """The cost recorded so far."""
        allocated = np.array([self._storages[number].bytes * sign for number, sign, _ in self._events]).cumsum()
        moment = int(allocated.argmax())
        alive: set[int] = set()
        for number, sign, _ in self._events[: moment + 1]:
            (alive.add if sign > 0 else alive.discard)(number)
        peak: Counter[MemoryClass] = Counter()
        parts: Counter[str] = Counter()
        for storage in (self._storages[number] for number in alive):
            peak[storage.kind] += storage.bytes
            if storage.kind in ("activations", "temporary"):
                parts[storage.part] += storage.bytes
        return Record(
            dict(self._flops),
            np.array(list(self._work), dtype=float),
            np.array(list(self._work.values())),
            allocated,
            sum(phase != "optimizer" for _, _, phase in self._events),
            dict(peak),
            dict(parts),
            self._events[moment][2],
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record it."""
        kwargs = kwargs or {}
        if func in (PART_BEGINS, PART_ENDS):
            self._name_nodes()
            if func is PART_BEGINS:
                self._parts.append(args[0])
            else:
                self._parts.pop()
        out = func(*args, **kwargs)
        outputs = tensors_in(out)
        if outputs:
            part = self._part()
            count = len(self._storages)
            for tensor in outputs:
                self._storage_of(tensor, part)
            if len(self._storages) > count or in_place(func):
                number = flops(func, args, kwargs, out)
                self._flops[self._phase, part] += number
                self._work[number, _traffic(func, tensors_in((args, kwargs)), outputs), outputs[0].itemsize == 2] += 1
        return out

    def _storage_of(self, tensor: Tensor, part: str = LOSS) -> int:
        """The number of a tensor's storage, which is recorded as allocated when it is new."""
        memory = tensor.untyped_storage()
        key = id(memory)
        if key not in self._alive:
            number = len(self._storages)
            self._storages.append(_Storage(memory.nbytes(), "temporary", part))
            self._events.append((number, 1, self._phase))

            def freed(_: Any) -> None:
                del self._alive[key]
                self._events.append((number, -1, self._phase))

            self._alive[key] = number, weakref.ref(memory, freed)
        return self._alive[key][0]

    def _part(self) -> str:
        """The part of the current operation; in a backward pass, that of the operation it differentiates.

        What gradient checkpointing recomputes in the backward pass belongs to its part as well.
        """
        node = backward_node()
        if node is None:
            return self._parts[-1]
        if node - self._first_node >= len(self._part_of_node):  # a backward pass within a forward pass
            self._name_nodes()
        return self._part_of_node[node - self._first_node]

    def _name_nodes(self) -> None:
        """Assign the nodes made since the last call to the part that ends, or pauses, now."""
        made = next_node() - self._first_node
        self._part_of_node += [self._parts[-1]] * (made - len(self._part_of_node))


def _traffic(operation: Any, inputs: list[Tensor], outputs: list[Tensor]) -> int:
    """Bytes that an operation reads and writes, each once; of a tensor that is indexed, only the rows taken."""
    if operation.overloadpacket in _ALLOCATES:
        return 0
    if operation.overloadpacket in _TAKES_ROWS:
        inputs = [*inputs[1:], *outputs]
    return sum(min(x.numel() * x.itemsize, x.untyped_storage().nbytes()) for x in (*inputs, *outputs))


_aten = torch.ops.aten
_ALLOCATES = (_aten.empty, _aten.empty_like, _aten.new_empty, _aten.empty_strided)
_TAKES_ROWS = (_aten.index_select, _aten.index, _aten.gather)

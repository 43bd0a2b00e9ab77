"""Record the FLOPs, memory traffic and allocations of a training step, on real or fake tensors."""

import dataclasses
import functools
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hybrid_patch.cost import torch_internals
from hybrid_patch.cost.devices import Device
from hybrid_patch.model.profiling import LOSS, PARTS
from hybrid_patch.train.step import Phase

PASSES: tuple[Phase, ...] = ("forward", "backward")
MemoryClass = Literal["parameters", "gradients", "optimizer", "activations", "temporary"]
"""What memory is used for. Parameters include buffers; activations include the batch, and whatever is alive between
the forward and the backward pass."""
CLASSES: tuple[MemoryClass, ...] = get_args(MemoryClass)


@dataclasses.dataclass(frozen=True)
class Record:
    """The cost of a step.

    Attributes:
        flops: by pass and part.
        work: of each operation but views, `[n, 3]`: FLOPs, bytes read and written, whether its numbers have 16 bits.
        repeats: `[n]` how often each row of `work` occurred.
        allocated: `[events]` bytes allocated after each allocation and each release.
        passes: number of events of the forward and backward pass.
        memory: bytes by class at the moment of highest memory.
        part_memory: bytes of activations and temporary tensors at that moment, by part.
    """

    flops: dict[Phase, dict[str, int]]
    work: Float[np.ndarray, "n 3"]
    repeats: Int[np.ndarray, " n"]
    allocated: Int[np.ndarray, " events"]
    passes: int
    memory: dict[MemoryClass, int]
    part_memory: dict[str, int]

    @property
    def peak(self) -> int:
        """Bytes of all classes."""
        return sum(self.memory.values())

    def dominant(self) -> str:
        """The largest class of memory; for activations and temporary tensors also the part that has most of them."""
        largest = max(CLASSES, key=lambda kind: self.memory[kind])
        if largest not in ("activations", "temporary"):
            return largest
        return f"{largest}, most in the {max(self.part_memory, key=lambda part: self.part_memory[part])}"

    def seconds(self, device: Device) -> float:
        """The roofline: an operation takes the longer of its FLOPs and its bytes at the device's peaks."""
        flops, bytes_, short = self.work.T
        peak = np.where(short > 0, device.bf16, device.fp32)
        return float(np.maximum(flops / peak, bytes_ / device.bandwidth) @ self.repeats)


@dataclasses.dataclass(eq=False)
class _Storage:
    """A block of memory, which several tensors may share."""

    bytes: int
    kind: MemoryClass
    part: str


class Recorder(torch_internals.TorchDispatchMode):
    """A dispatch mode to run a step under: `hold` what exists before, run `phase` by `phase`, then `record`."""

    def __init__(self) -> None:
        super().__init__()
        self._phase: Phase = "forward"
        self._parts = [LOSS]
        self._part_of_node: list[str] = []
        self._first_node = torch_internals.next_node()
        self._flops: Counter[tuple[Phase, str]] = Counter()
        self._work: Counter[tuple[int, int, bool]] = Counter()
        self._alive: dict[int, tuple[_Storage, weakref.ref[Any]]] = {}
        self._events: list[tuple[_Storage, int, Phase]] = []

    def hold(self, tensor: Tensor, kind: MemoryClass) -> Tensor:
        """Count an existing tensor, or change the class of one that is counted already; returns it."""
        self._storage_of(tensor).kind = kind
        return tensor

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Context of a phase of the step."""
        self._phase = name
        with self:
            yield
        if name == "forward":
            self._name_nodes()
            for storage, _ in self._alive.values():
                if storage.kind == "temporary":
                    storage.kind = "activations"

    def record(self) -> Record:
        """The cost recorded so far."""
        allocated = np.array([storage.bytes * sign for storage, sign, _ in self._events]).cumsum()
        alive: Counter[_Storage] = Counter()
        for storage, sign, _ in self._events[: int(allocated.argmax()) + 1]:
            alive[storage] += sign
        memory = dict.fromkeys(CLASSES, 0)
        part_memory: Counter[str] = Counter()
        for storage in alive.elements():
            memory[storage.kind] += storage.bytes
            if storage.kind in ("activations", "temporary"):
                part_memory[storage.part] += storage.bytes
        return Record(
            {name: {part: self._flops[name, part] for part in PARTS} for name in PASSES},
            np.array(list(self._work), dtype=float),
            np.array(list(self._work.values())),
            allocated,
            sum(phase != "optimizer" for _, _, phase in self._events),
            memory,
            dict(part_memory),
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record it."""
        kwargs = kwargs or {}
        if func in (torch_internals.PART_BEGINS, torch_internals.PART_ENDS):
            self._name_nodes()
            self._parts = [*self._parts, args[0]] if func is torch_internals.PART_BEGINS else self._parts[:-1]
        out = func(*args, **kwargs)
        outputs = torch_internals.tensors_in(out)
        if outputs:
            part = self._part()
            count = len(self._events)
            for tensor in outputs:
                self._storage_of(tensor, part)
            if len(self._events) > count or torch_internals.in_place(func):
                flops = torch_internals.flops(func, args, kwargs, out)
                traffic = _traffic(func, torch_internals.tensors_in((args, kwargs)), outputs)
                self._flops[self._phase, part] += flops
                self._work[flops, traffic, outputs[0].itemsize == 2] += 1
        return out

    def _storage_of(self, tensor: Tensor, part: str = LOSS) -> _Storage:
        """A tensor's storage, which is recorded as allocated when it is new."""
        memory = tensor.untyped_storage()
        key = id(memory)
        if key not in self._alive:
            storage = _Storage(memory.nbytes(), "temporary", part)
            self._events.append((storage, 1, self._phase))
            self._alive[key] = storage, weakref.ref(memory, functools.partial(self._freed, key))
        return self._alive[key][0]

    def _freed(self, key: int, _: Any) -> None:
        storage, _ = self._alive.pop(key)
        self._events.append((storage, -1, self._phase))

    def _part(self) -> str:
        """The part of the current operation; in a backward pass, that of the operation it differentiates.

        What gradient checkpointing recomputes in the backward pass belongs to its part as well.
        """
        node = torch_internals.backward_node()
        if node is None:
            return self._parts[-1]
        if node - self._first_node >= len(self._part_of_node):  # a backward pass within a forward pass
            self._name_nodes()
        return self._part_of_node[node - self._first_node]

    def _name_nodes(self) -> None:
        """Assign the nodes made since the last call to the part that ends, or pauses, now."""
        made = torch_internals.next_node() - self._first_node
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

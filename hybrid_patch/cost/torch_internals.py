"""Everything the planner uses of torch that is not public API. If it has moved, an InputError says so.

`pyproject.toml` caps torch at the version this is tested with; `tests/cost/test_torch_internals.py` names the
signatures, and is what to run before raising the cap.

Fake tensors have shapes and no numbers. A dispatch mode sees every operation that reaches a kernel, forward and
backward. Nodes of the autograd graph are numbered in the order in which the forward pass makes them.
"""

from typing import Any

import torch

from hybrid_patch.errors import InputError

try:
    import torch._dynamo  # fake tensors import it at their first use; here, for worker processes to share
    from torch._C import _current_autograd_node
    from torch._C._autograd import _get_sequence_nr
    from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_backward_flop_count, sdpa_flop_count

    PART_BEGINS = torch.ops.profiler._record_function_enter_new.default
    PART_ENDS = torch.ops.profiler._record_function_exit._RecordFunction
    _CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    _CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
except (ImportError, AttributeError) as error:
    raise InputError(
        f"torch={torch.__version__}: private parts that the planner uses have moved ({error}); it is tested "
        "with torch 2.13; adapt hybrid_patch/cost/torch_internals.py for another version"
    ) from error

_ACCUMULATES = 2**64 - 1
"""The number of every node that accumulates a gradient."""
next_node = _get_sequence_nr
"""The number that the next node of the autograd graph on this thread will have."""


def backward_node() -> int | None:
    """The number of the node a backward pass is at; None outside of one, and where gradients are accumulated."""
    node = _current_autograd_node()
    number = None if node is None else node._sequence_nr()
    return None if number == _ACCUMULATES else number


def tensors_in(values: Any) -> list[torch.Tensor]:
    """The tensors of nested arguments or results."""
    return [x for x in tree_leaves(values) if isinstance(x, torch.Tensor)]


def in_place(operation: Any) -> bool:
    """Whether an operation changes one of its inputs."""
    return bool(operation._schema.is_mutable)


def flops(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Floating-point operations of a matrix product or an attention, two for each multiply-add; 0 for all else."""
    formula = flop_registry.get(operation.overloadpacket)
    return 0 if formula is None else formula(*args, **kwargs, out_val=out)


# torch 2.13 counts attention on a CPU as nothing. Five products backward: the scores are computed once more.
if _CPU_ATTENTION not in flop_registry:
    register_flop_formula(_CPU_ATTENTION)(lambda *shapes, **options: sdpa_flop_count(*shapes[:3]))
if _CPU_ATTENTION_BACKWARD not in flop_registry:
    register_flop_formula(_CPU_ATTENTION_BACKWARD)(lambda *shapes, **options: sdpa_backward_flop_count(*shapes[:4]))

"""Names and signatures of the private parts of torch that the planner uses. Run it before raising torch's cap."""

import inspect
import tomllib
from pathlib import Path

import pytest
import torch
from torch.utils import flop_counter

from hybrid_patch.cost import torch_internals
from hybrid_patch.cost.torch_internals import FakeTensorMode, TorchDispatchMode, backward_node, next_node, tensors_in

TESTED = "2.13"


def test_the_cap_is_above_the_version_that_is_tested() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (torch_requirement,) = [line for line in project["dependencies"] if line.startswith("torch>")]
    major, minor = map(int, TESTED.split("."))
    assert torch_requirement.endswith(f",<{major}.{minor + 1}")
    assert torch.__version__.startswith(f"{TESTED}.")


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (TorchDispatchMode.__torch_dispatch__, ["self", "func", "types", "args", "kwargs"]),
        (flop_counter.sdpa_flop_count, ["query_shape", "key_shape", "value_shape"]),
        (flop_counter.sdpa_backward_flop_count, ["grad_out_shape", "query_shape", "key_shape", "value_shape"]),
        (flop_counter.register_flop_formula, ["targets", "get_raw"]),
    ],
)
def test_python_signatures(function: object, parameters: list[str]) -> None:
    assert callable(function)
    assert list(inspect.signature(function).parameters) == parameters


@pytest.mark.parametrize(
    ("operation", "schema"),
    [
        (torch_internals.PART_BEGINS, "profiler::_record_function_enter_new(str name, str? args=None)"),
        (torch_internals.PART_ENDS, "profiler::_record_function_exit._RecordFunction("),
        (
            torch_internals._CPU_ATTENTION.default,
            "aten::_scaled_dot_product_flash_attention_for_cpu(Tensor query, Tensor key, Tensor value, ",
        ),
        (
            torch_internals._CPU_ATTENTION_BACKWARD.default,
            "aten::_scaled_dot_product_flash_attention_for_cpu_backward("
            "Tensor grad_out, Tensor query, Tensor key, Tensor value, ",
        ),
    ],
)
def test_schemas_of_operations(operation: object, schema: str) -> None:
    assert str(operation._schema).startswith(schema)  # type: ignore[attr-defined]


def test_fake_tensors_have_shapes_and_no_numbers() -> None:
    with FakeTensorMode():
        product = torch.zeros(2, 3) @ torch.zeros(3, 5)
    assert type(product).__name__ == "FakeTensor"
    assert product.shape == (2, 5)


def test_nodes_are_numbered_in_the_order_of_the_forward_pass() -> None:
    """A backward pass reports the node it is at, and none where gradients are accumulated."""
    visited: list[int | None] = []
    x = torch.ones(2, requires_grad=True)
    first = next_node()
    y = (x * 2).exp()
    y.register_hook(lambda _: visited.append(backward_node()))
    x.register_hook(lambda _: visited.append(backward_node()))
    assert next_node() == first + 2
    assert backward_node() is None
    y.sum().backward()
    assert visited == [first + 1, None]
    assert backward_node() is None


def test_an_operation_says_whether_it_works_in_place() -> None:
    assert torch_internals.in_place(torch.ops.aten.add_.Tensor)
    assert not torch_internals.in_place(torch.ops.aten.add.Tensor)


def test_tensors_are_found_in_nested_values() -> None:
    x, y = torch.zeros(1), torch.zeros(2)
    assert [tensor.shape for tensor in tensors_in(({"a": [x]}, 3, (y, None)))] == [(1,), (2,)]

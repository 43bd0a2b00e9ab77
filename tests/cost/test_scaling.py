"""Steps on many devices: bytes by hand, limits, and bad input."""

import dataclasses
from typing import Any

import pytest
from building import TINY, small
from hypothesis import given
from hypothesis import strategies as st

from hybrid_patch.config.options import parse
from hybrid_patch.cost.devices import Links
from hybrid_patch.cost.parallelism import Scaling, bytes_sent, scaling_rows
from hybrid_patch.cost.plan import PlanOptions, plan
from hybrid_patch.cost.plan_report import plan_tables
from hybrid_patch.errors import InputError

CONFIG = small()
LINKS = Links(per_node=8, node=400e9, network=25e9)


def test_bytes_are_those_of_rings() -> None:
    config = small("loss.instance.weight=0")
    assert bytes_sent(config, 1000, 3, 1) == {"ddp": 0, "fsdp": 0}
    # Half of twice the gradients; half of three times four bytes.
    assert bytes_sent(config, 1000, 3, 2) == {"ddp": 4000, "fsdp": 6000}
    assert bytes_sent(config, 1000, 3, 4) == {"ddp": 6000, "fsdp": 9000}
    mixed = small("loss.instance.weight=0", "runtime.precision=bf16-mixed")
    assert bytes_sent(mixed, 1000, 3, 4) == {"ddp": 6000, "fsdp": 9000}  # weights travel in float32
    with_instance = small()  # two views, 32 numbers, gathered, and their gradients
    assert bytes_sent(with_instance, 1000, 3, 4)["ddp"] == 6000 + 2 * 3 * (3 * 2 * 32 * 4)


def test_the_slowest_link_counts() -> None:
    assert LINKS.bandwidth(8) == 400e9
    assert LINKS.bandwidth(9) == 200e9  # eight cards of 25 GB/s
    assert Links(8, 30e9, 25e9).bandwidth(64) == 30e9


@given(
    computing=st.floats(1e-3, 10),
    parameters=st.integers(1, 10**9),
    samples=st.integers(1, 64),
    world=st.integers(1, 999),
)
def test_a_step_is_never_quicker_than_computing(computing: float, parameters: int, samples: int, world: int) -> None:
    config = dataclasses.replace(CONFIG, trainer=dataclasses.replace(CONFIG.trainer, batch_size=samples))
    for row in scaling_rows(config, parameters, computing, Scaling((world,), LINKS)):
        best, worst = row["step_seconds"]
        low, high = row["efficiency"]
        assert computing <= best <= worst
        assert 0 < low <= high <= 1
        assert row["samples_per_step"] == samples * world
        if world == 1:
            assert worst == computing


def report(*arguments: str) -> dict[str, Any]:
    return plan(parse(PlanOptions, [*TINY, *arguments]))


@pytest.mark.full
def test_the_plan_scales_its_members() -> None:
    planned = report("device=h100-80gb", "world=8,64", "patch=ps8,hybrid", "step=0.5")
    for row in planned["members"]:
        assert [scaled["world"] for scaled in row["scaling"]] == [8, 8, 64, 64]
        assert all(scaled["step_seconds"][0] == 0.5 for scaled in row["scaling"])
    assert planned["computing"] == "a step of 0.5 s"
    assert plan_tables(planned)[-1].row_count == 8
    slow = report("device=h100-80gb", "world=64", "links=8,1,0.001")["members"][0]["scaling"]
    assert slow[0]["efficiency"][1] < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["world=8"], "world: needs a device"),
        (["world=8,many", "device=h200"], "world=8,many: must be a whole number"),
        (["world=0", "device=h200"], "world=0: must be greater than or equal to 1"),
        (["links=8,450,50"], "links: is for weak scaling; give world=8,64,512 too"),
        (["step=1"], "step: is for weak scaling"),
        (["world=8", "device=h200", "links=8,450"], "links=8,450: takes devices per node, and GB/s"),
        (["world=8", "device=h200", "links=8,450,0"], "links=8,450,0: takes devices per node"),
        (["world=8", "device=h200", "step=soon"], "step=soon: must be a number"),
    ],
)
def test_bad_input(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(PlanOptions, [*TINY, *arguments])
    assert str(error.value).startswith(message)


@pytest.mark.full
def test_this_machines_links_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_patch.cost.devices.SECONDS", 0.01)
    with pytest.raises(InputError, match=r"^device=this: its links are not known; give them, as links=8,450,50"):
        parse(PlanOptions, [*TINY, "world=8", "device=this"])
    scaling = parse(PlanOptions, [*TINY, "world=8", "device=this", "links=[8,450,50]"]).scaling
    assert scaling is not None
    assert scaling.worlds == (8,)

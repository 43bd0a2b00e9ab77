"""What `submit` is told besides the runs' overrides: every cluster composes, and errors are one line."""

import pytest

from hybrid_patch.config.compose import Sources, compose
from hybrid_patch.errors import InputError
from launch.settings import Local, Slurm, read


@pytest.mark.parametrize("option", Sources().groups()["cluster"])
def test_every_cluster_composes_and_takes_no_other_key(option: str) -> None:
    launch, rest = read([f"cluster={option}", "seed=1"])
    assert launch.cluster.name == option
    assert rest == ["seed=1"]
    with pytest.raises(InputError, match=r"^cluster.surely_not=3: unknown key; [^\n]+$"):
        read([f"cluster={option}", "cluster.surely_not=3"])


def test_the_default_is_this_machine() -> None:
    assert isinstance(read([])[0].cluster, Local)


def test_values_as_they_are_typed() -> None:
    words = [
        "cluster=slurm",
        "cluster.time=60",
        "cluster.gpus_per_node=a100:2",
        "cluster.extra={exclusive: true, nice: 5}",
    ]
    cluster = read(words)[0].cluster
    assert isinstance(cluster, Slurm)
    assert (cluster.time, cluster.gpus_per_node) == ("60", "a100:2")
    assert cluster.extra == {"exclusive": "true", "nice": "5"}


@pytest.mark.parametrize(
    "words",
    [
        ["cluster=slrum"],
        ["cluster=slurm", "cluster.time=soon"],
        ["cluster=slurm", "cluster.pack=0"],
        ["cluster.slots=x"],
    ],
)
def test_bad_values_are_one_line(words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        read(words)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(words[-1])


def test_a_run_has_no_cluster() -> None:
    with pytest.raises(InputError, match="python -m launch submit"):
        compose(["cluster=slurm"])

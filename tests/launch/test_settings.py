"""Where members run: every cluster composes, and errors are one line."""

import pytest

from hybrid_patch.config.compose import compose
from hybrid_patch.config.options import parse
from hybrid_patch.config.sources import Sources
from hybrid_patch.errors import InputError
from launch.commands import SubmitOptions
from launch.config import Local, Slurm, read_cluster, seconds
from launch.queue.local_slots import visible_gpus


@pytest.mark.parametrize("option", Sources().groups()["cluster"])
def test_every_cluster_composes_and_takes_no_other_key(option: str) -> None:
    assert read_cluster([f"cluster={option}"]).name == option
    with pytest.raises(InputError, match=r"^cluster.surely_not=3: unknown key; [^\n]+$"):
        read_cluster([f"cluster={option}", "cluster.surely_not=3"])


def test_words_of_a_cluster_and_of_runs_are_told_apart() -> None:
    words = ["seed=1", "cluster=slurm", "+sweep=mine", "+cluster.extra.nice=5", "dry_run=true", "~modality.landsat"]
    options = parse(SubmitOptions, words)
    assert options.cluster == ("cluster=slurm", "+cluster.extra.nice=5")
    assert options.overrides == ("seed=1", "+sweep=mine", "~modality.landsat")
    assert options.dry_run


def test_the_default_is_this_machine() -> None:
    assert isinstance(read_cluster([]), Local)


def test_values_as_they_are_typed() -> None:
    words = [
        "cluster=slurm",
        "cluster.time=60",
        "cluster.gpus_per_node=a100:2",
        "cluster.extra={exclusive: true, nice: 5}",
    ]
    cluster = read_cluster(words)
    assert isinstance(cluster, Slurm)
    assert (cluster.time, cluster.gpus_per_node) == ("60", "a100:2")
    assert cluster.extra == {"exclusive": "true", "nice": "5"}


def test_values_change_the_cluster_from_before_and_a_choice_replaces_it() -> None:
    before = read_cluster(
        ["cluster=slurm", "cluster.account=mine", "cluster.retries.error=7", "cluster.extra={nice: 5}"]
    )
    assert read_cluster([], before=before) == before
    words = ["cluster.parallel=2", "cluster.retries.killed=9", "+cluster.extra.reservation=x"]
    changed = read_cluster(words, before=before)
    assert isinstance(changed, Slurm)
    assert (changed.account, changed.parallel, changed.extra) == ("mine", 2, {"nice": "5", "reservation": "x"})
    assert (changed.retries.error, changed.retries.killed) == (7, 9)
    chosen = read_cluster(["cluster=slurm", *words], before=before)
    assert isinstance(chosen, Slurm)
    assert (chosen.account, chosen.parallel, chosen.retries.error) == (None, 2, 1)
    assert isinstance(read_cluster(["cluster=local"], before=before), Local)
    with pytest.raises(InputError, match=r"^cluster.slots=3: unknown key; slurm takes: [^\n]+$"):
        read_cluster(["cluster.slots=3"], before=before)


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
        read_cluster(words)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(words[-1])


def test_a_run_has_no_cluster() -> None:
    with pytest.raises(InputError, match="hybrid-patch launch submit"):
        compose(["cluster=slurm"])


def test_times_of_sbatch() -> None:
    times = {"5": 300, "1:30": 90, "4:00:00": 14400, "2-1": 176400, "2-1:30": 178200, "0-0:0:7": 7}
    assert {time: seconds(time) for time in times} == times


def test_a_job_must_be_longer_than_its_warning() -> None:
    with pytest.raises(InputError, match=r"^cluster.time=2: is not longer than cluster.signal_seconds=120, [^\n]+$"):
        read_cluster(["cluster=slurm", "cluster.time=2"])


@pytest.mark.parametrize(("visible", "gpus"), [("-1", []), ("", []), ("0,2", ["0", "2"]), ("1,-1,2", ["1"])])
def test_the_gpus_that_a_process_may_use(visible: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == gpus

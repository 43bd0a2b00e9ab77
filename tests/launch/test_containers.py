"""Members in containers, and by another interpreter: what is started on a node.

Neither pyxis nor Apptainer runs here. `apptainer` is a program that records its arguments and becomes the command
within; what srun is asked with pyxis is compared as words.
"""

import sys
from importlib import metadata
from pathlib import Path

import pytest
from cluster import Cluster
from launching import QUICK, check_whole, launch, submitted, until_done
from packaging.requirements import Requirement
from test_slurm import _cluster, cluster  # noqa: F401

from hybrid_patch.errors import InputError
from launch.config import Slurm, read_cluster
from launch.queue.node_command import command_before, job_python, member_python
from launch.queue.slurm import SlurmQueue
from launch.queue.slurm_script import resources_of, script
from launch.snapshot import frozen_environment
from launch.sweep import Submission, SweepMember

FOLDER = Path("/work/runs/x/launch/submissions/0001")
IMAGE = "nvcr.io#nvidia/pytorch:25.10-py3"
APPTAINER = """#!/bin/sh
echo "$@" >> {log}
while [ "${{1%.sif}}" = "$1" ]; do shift; done
shift
exec "$@"
"""
"""Becomes what follows the image."""


def slurm(*words: str) -> Slurm:
    chosen = read_cluster(["cluster=slurm", *words])
    assert isinstance(chosen, Slurm)
    return chosen


def member(nodes: int = 1, processes: int = 1, cuda: bool = False) -> SweepMember:
    return SweepMember(id="a", arguments=(), nodes=nodes, processes=processes, workers=3, cuda=cuda)


def before(chosen: Slurm, of: SweepMember) -> list[str]:
    submission = Submission(folder=FOLDER, number=1, cluster=chosen, code="/c", cwd="/work", members=(of,), name="x")
    return command_before(chosen, submission, of)


def test_without_a_container_a_member_of_one_machine_starts_itself() -> None:
    assert before(slurm(), member(processes=2)) == []
    assert job_python(slurm()) == member_python(slurm()) == sys.executable
    other = slurm("cluster.python=/opt/python 3/bin/python")
    assert job_python(other) == member_python(other) == "/opt/python 3/bin/python"
    of = member()
    submission = Submission(folder=FOLDER, number=1, cluster=other, code="/c", cwd="/work", members=(of,), name="x")
    text = script(submission, 0, "x-0", 1, resources_of(other, of))
    assert "'/opt/python 3/bin/python' -u -m launch.queue.slurm_job" in text
    assert sys.executable not in text


def test_pyxis_makes_the_container_of_each_process_that_srun_starts() -> None:
    chosen = slurm(f"cluster.container={IMAGE}", "cluster.mounts=[/data]")
    options = [
        "--kill-on-bad-exit=1",
        "--cpus-per-task=4",
        f"--container-image={IMAGE}",
        "--container-mounts=/work:/work,/work/runs/x:/work/runs/x,/data:/data",
        "--container-workdir=/work",
    ]
    assert before(chosen, member()) == ["srun", "--nodes=1", "--ntasks-per-node=1", *options]
    rank = ["python3", "-u", "-m", "launch.queue.slurm_rank"]
    assert before(chosen, member(2, 4)) == ["srun", "--nodes=2", "--ntasks-per-node=4", *options, *rank]
    assert (job_python(chosen), member_python(chosen)) == (sys.executable, "python3")


def test_apptainer_is_put_before_the_command_and_sees_gpus_where_there_are_some() -> None:
    chosen = slurm("cluster.apptainer=/images/a b.sif", "cluster.python=/opt/bin/python")
    bound = ["--bind=/work", "--bind=/work/runs/x", "--pwd=/work", "/images/a b.sif"]
    assert before(chosen, member(processes=2)) == ["apptainer", "exec", *bound]
    assert before(chosen, member(2, 1, cuda=True)) == [
        *("srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--cpus-per-task=4"),
        *("apptainer", "exec", "--nv", *bound),
        *("/opt/bin/python", "-u", "-m", "launch.queue.slurm_rank"),
    ]
    assert (job_python(chosen), member_python(chosen)) == (sys.executable, "/opt/bin/python")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["cluster.container=a", "cluster.apptainer=b.sif"], "cluster.apptainer=b.sif: cluster.container is given too"),
        (["cluster.container="], "cluster.container=: empty; give a value, or null"),
        (["cluster.mounts=[data]"], r"cluster.mounts"),
    ],
)
def test_what_does_not_go_together_is_one_line(words: list[str], line: str) -> None:
    with pytest.raises(InputError, match=rf"^{line}[^\n]*$"):
        slurm(*words)


def test_members_that_srun_starts_in_containers_are_not_packed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"^cluster.pack=2: [^\n]+cluster.apptainer$"):
        SlurmQueue(slurm("cluster.container=a", "cluster.pack=2")).check([member()])


def test_the_installed_packages_are_listed_as_pip_takes_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    first, *lines = frozen_environment().splitlines()
    assert first.startswith("# Python 3.")
    assert f"numpy=={metadata.version('numpy')}" in lines
    assert all(Requirement(line) for line in lines)
    assert len(lines) == len({Requirement(line).name.lower() for line in lines})


@pytest.mark.cluster
def test_a_sweep_trains_in_apptainer(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    """One member on a machine, and one on two."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "apptainer").write_text(APPTAINER.format(log=tmp_path / "apptainer.txt"))
    (bin_folder / "apptainer").chmod(0o755)
    words = (
        *("cluster=slurm", "cluster.apptainer=/images/hybrid_patch.sif", f"cluster.python={sys.executable}"),
        *(f"cluster.setup=['export PATH={bin_folder}:$PATH']", "trainer.steps=6"),
    )
    (run,) = submitted(tmp_path, *words)
    until_done(run)
    check_whole(run, 6)
    (packages,) = (tmp_path / "runs" / "mine" / "launch" / "code").glob("*/environment.txt")
    assert packages.read_text() == frozen_environment()
    two = ("cluster.nodes=2", "runtime=ddp", "runtime.processes=1", "runtime.device=cpu", "sweep_name=two")
    assert launch(tmp_path, "submit", *QUICK, *words, *two).returncode == 0
    (other,) = (path.parent for path in (tmp_path / "runs" / "two").glob("*/config.yaml"))
    until_done(other)
    lines = (tmp_path / "apptainer.txt").read_text().splitlines()
    bound = f"exec --bind={tmp_path} --bind={tmp_path}/runs"
    image = f"--pwd={tmp_path} /images/hybrid_patch.sif {sys.executable} -u -m"
    assert lines[0] == f"{bound}/mine {image} hybrid_patch.resume {run}"
    rank = f"launch.queue.slurm_rank {sys.executable} -u -m hybrid_patch.resume {other}"
    assert lines[1:] == [f"{bound}/two {image} {rank}"] * 2

"""What a dry run shows, on a machine without SLURM too, and what it does not import."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launching import QUICK, launch, run_directories, submitted, variables

MEMBERS = (*QUICK, "sweep_name=mine", "upsampler=bilinear,learned", "runtime.workers=1", "seed=0,1", "trainer.steps=2")
SLURM = ("cluster=slurm", "cluster.time=4:00:00", "cluster.memory=16G", "cluster.parallel=2", "cluster.pack=2")


def without_slurm(folder: Path) -> str:
    """A PATH with git on it and no sbatch."""
    (folder / "git").symlink_to(
        next(Path(each) / "git" for each in os.get_exec_path() if (Path(each) / "git").exists())
    )
    return str(folder)


def cells(printed: str, first: str) -> list[dict[str, str]]:
    """The rows of a printed table whose first column has this title."""
    rows = [re.split(r"\s*[│┃]\s*", line.strip("│┃ ")) for line in printed.splitlines() if line[:1] in "│┃"]
    begin = next(i for i, row in enumerate(rows) if row[0] == first)
    titles = rows[begin]
    return [dict(zip(titles, row, strict=True)) for row in rows[begin + 1 :] if len(row) == len(titles)]


def test_scripts_and_resources_are_shown_where_there_is_no_sbatch(tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    (tools := tmp_path / "tools").mkdir()
    path = without_slurm(tools)
    shown = launch(work, "submit", *MEMBERS, *SLURM, "dry_run=true", PATH=path)
    assert shown.returncode == 0, shown.stderr
    (array,) = cells(shown.stdout, "members")
    needed = {"members": "4", "jobs": "2", "parallel": "2", "nodes": "1", "tasks": "2", "cpus": "2", "gpus": "-"}
    assert array == {**needed, "memory": "16G", "time": "4:00:00"}
    for line in ("#SBATCH --array=0-1%2", "#SBATCH --mem=16G", "#SBATCH --time=4:00:00", "#SBATCH --ntasks-per-node=2"):
        assert f"\n{line}\n" in shown.stdout
    assert "launch.queue.slurm_job" in shown.stdout
    assert shown.stdout.endswith("dry_run: 4 members would be submitted\n")
    assert list(work.iterdir()) == []
    refused = launch(work, "submit", *MEMBERS, *SLURM, PATH=path)
    assert (refused.returncode, list(work.iterdir())) == (2, [])
    assert refused.stderr.startswith("error: cluster=slurm: there is no sbatch on this machine")


def test_resume_shows_the_same(tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    (tools := tmp_path / "tools").mkdir()
    submitted(work, "seed=0,1", "trainer.steps=1000")
    assert launch(work, "cancel", "mine").returncode == 0
    shown = launch(work, "resume", "mine", *SLURM, "cluster.pack=1", "dry_run=true", PATH=without_slurm(tools))
    assert shown.returncode == 0, shown.stderr
    (array,) = cells(shown.stdout, "members")
    assert (array["members"], array["memory"]) == ("2", "16G")
    assert "/mine/launch/submissions/0002/job-%A_%a.txt\n" in shown.stdout
    assert shown.stdout.endswith("dry_run: 2 members would be submitted again\n")
    assert not (work / "runs" / "mine" / "launch" / "submissions" / "0002").exists()


def imported(folder: Path, *words: str) -> set[str]:
    """Modules that a command has imported when it ends."""
    program = (
        "import json, sys\nfrom launch.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder, env=variables(folder, {}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.full
def test_a_local_submission_imports_torch_only_for_a_plan(tmp_path: Path) -> None:
    words = ("submit", *MEMBERS, "dry_run=true")
    assert "torch" not in imported(tmp_path, *words)
    assert "torch" in imported(tmp_path, *words, "cluster.device=h100-80gb")


@pytest.mark.full
def test_a_config_folder_of_ones_own_is_kept_with_the_sweep(tmp_path: Path) -> None:
    conf = tmp_path / "my conf"
    (conf / "upsampler").mkdir(parents=True)
    (conf / "cluster").mkdir()
    (conf / "upsampler" / "narrow.yaml").write_text("defaults:\n  - guided\n  - _self_\nrank: 3\n")
    (conf / "cluster" / "two.yaml").write_text("defaults:\n  - local\n  - _self_\nslots: 2\nthreads: 1\n")
    words = (*QUICK, "sweep_name=mine", "upsampler=narrow", "cluster=two", "trainer.steps=1000")
    shown = launch(tmp_path, "submit", *words, "--config-dir", "my conf", "dry_run=true")
    assert shown.returncode == 0, shown.stderr
    assert cells(shown.stdout, "members")[0]["parallel"] == "2"
    done = launch(tmp_path, "submit", *words, "--config-dir", "my conf")
    assert done.returncode == 0, done.stderr
    (run,) = run_directories(tmp_path)
    assert launch(tmp_path, "cancel", "mine").returncode == 0
    config = (run / "config.yaml").read_text()
    assert "rank: 3\n" in config
    conf.rename(tmp_path / "moved")
    (run / "config.yaml").unlink()
    again = launch(tmp_path, "resume", "mine")
    assert again.returncode == 0, again.stderr
    assert (run / "config.yaml").read_text() == config
    assert launch(tmp_path, "cancel", "mine").returncode == 0
    unknown = launch(tmp_path, "plan", *words, "--config-dir=my conf")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: --config-dir=")

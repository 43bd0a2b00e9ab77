"""What would be submitted: the resources of each array of jobs, and the sbatch scripts; nothing is written."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from launch.config import Cluster
from launch.queue.choice import queue_of
from launch.status_table import show
from launch.submit import next_submission
from launch.sweep import Sweep, SweepMember

HASH = "HASH"
"""In place of the name of the code's copy, which is made when something is submitted."""


def show_previews(sweep: Sweep, members: Sequence[SweepMember], cluster: Cluster, cwd: str | None = None) -> None:
    """Print what a queue would start of members that would be submitted from a folder (None: this one)."""
    if not members:
        return
    submission = next_submission(sweep, members, sweep.code / HASH, cluster, cwd or str(Path.cwd()))
    previews = queue_of(cluster).preview(submission)
    table = Table(*previews[0].resources)
    for each in previews:
        table.add_row(*each.resources.values())
    show(table)
    scripts = {i: each.script for i, each in enumerate(previews) if each.script}
    for i, script in scripts.items():
        print(f"\n# {submission.folder / f'array-{i}.sh'}\n{script}", end="")
    if scripts:
        print(f"\n{HASH}, and the digits in the jobs' names, are given when they are submitted")

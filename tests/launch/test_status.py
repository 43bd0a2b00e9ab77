"""The status of a member whose queue and files disagree."""

from pathlib import Path

import pytest

from hybrid_patch.runs.atomic_files import append_line, write_json
from launch.queue.interface import Live
from launch.status import member_status
from launch.sweep import SweepMember

MEMBER = SweepMember(id="a", arguments=("seed=0",), nodes=1, processes=1, workers=0, cuda=False, memory=None)


@pytest.mark.parametrize(("live", "resubmittable"), [("running", False), (None, True)])
def test_a_dead_machine_is_named_and_its_member_not_submitted_twice(
    tmp_path: Path, live: Live | None, resubmittable: bool
) -> None:
    status = {"state": "running", "reason": "", "heartbeat": 0.0, "attempt": 1, "step": 5, "host": "n1", "pid": 1}
    write_json(tmp_path / "status.json", status)
    standing = member_status(tmp_path, MEMBER, live)
    assert (standing.state, standing.resubmittable) == ("stale", resubmittable)
    assert ("its queue still has it" in standing.reason) is not resubmittable


def test_a_torn_line_stays_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")
    with path.open("a") as file:
        file.write("tor")
    append_line(path, "two")
    assert path.read_text() == "one\ntor\ntwo\n"

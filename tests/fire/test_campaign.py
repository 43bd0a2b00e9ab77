"""The table of `make fire` and the tests agree, and a fault that is not survived is counted so."""

import sys
from pathlib import Path

import campaign
import pytest


@pytest.mark.full
def test_every_row_has_a_test_and_every_test_a_row() -> None:
    faults = campaign.read_table()
    assert len({(fault.subject, fault.fault) for fault in faults}) == len(faults)
    collected = campaign.collect("", campaign.files(faults))
    assert not [fault for fault in faults if not any(fault.covers(node) for node in collected)]

    marked = [path for path in (campaign.ROOT / "tests").rglob("test_*.py") if "mark.fire" in path.read_text()]
    marked.remove(Path(__file__))
    nodes = campaign.collect("fire", map(str, marked)) if marked else []
    assert not [node for node in nodes if not any(fault.covers(node) for fault in faults)]


FAULTS = """
import pytest

def test_survived(): pass

def test_survived_too(): assert False

def test_lost(): assert False

@pytest.mark.parametrize("file", ["lock.json", "run.json"])
def test_file(file): assert file == "lock.json"

@pytest.mark.fire
def test_root(): pytest.skip("needs root")
"""


@pytest.mark.full
def test_faults_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "test_faults.py"
    path.write_text(FAULTS)
    (tmp_path / "faults.md").write_text(
        "## Files\n| fault | test |\n"
        + "".join(f"| {name} | `test_faults.py::test_{name}` |\n" for name in ("survived", "lost", "file[lock", "root"))
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -m 'not fire'\nmarkers = fire\n")
    monkeypatch.setattr(campaign, "ROOT", tmp_path)
    monkeypatch.setattr(campaign, "TABLE", tmp_path / "faults.md")
    monkeypatch.chdir(tmp_path)
    assert campaign.main("0") == 1
    printed = capfd.readouterr().out
    assert "  survived: survived\n  lost: NOT SURVIVED: test_faults.py::test_lost\n  file[lock: survived\n" in printed
    assert "  root: not tried: needs root\n\ntried 3, survived 2, not tried 1\n" in printed
    assert campaign.main("0", "survived") == 0
    assert campaign.main("0", "no such word") == 2
    path.write_text("")
    assert campaign.main("0") == 2
    assert "faults.md: no test test_faults.py::test_survived (survived)" in capfd.readouterr().err
    del sys.modules["test_faults"]

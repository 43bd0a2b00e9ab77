"""`make fire`: every fault of `faults.md` is injected for real; which were survived?

`make fire FAULTS="lock.json"` tries those whose row has one of the words.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
TABLE = Path(__file__).parent / "faults.md"


class Fault(NamedTuple):
    """A row of the table."""

    subject: str
    fault: str
    test: str

    def covers(self, node: str) -> bool:
        """Whether a test is of this fault: the one that is named, or one whose name begins so."""
        return node == self.test or (node.startswith(self.test) and ("[" in self.test or node[len(self.test)] == "["))


def read_table() -> list[Fault]:
    """The rows of `faults.md`, under the heading of each."""
    faults, subject = [], ""
    for line in TABLE.read_text().splitlines():
        if line.startswith("## "):
            subject = line.removeprefix("## ")
        elif row := re.fullmatch(r"\| (.+) \| `(.+)` \|", line):
            faults.append(Fault(subject, *row.groups()))
    return faults


def files(faults: Iterable[Fault]) -> list[str]:
    """The files of their tests."""
    return sorted({fault.test.partition("::")[0] for fault in faults})


def collect(marker: str, paths: Iterable[str]) -> list[str]:
    """The names of the tests in some files that have a marker; all for the marker "".

    Raises:
        RuntimeError: pytest cannot collect them.
    """
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", marker, *paths]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}  # -v would print a tree
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(done.stdout + done.stderr)
    return [line for line in done.stdout.splitlines() if "::" in line]


class Outcomes:
    """A pytest plugin: how each test ended, and why it was skipped."""

    def __init__(self) -> None:
        self.failed: set[str] = set()
        self.passed: set[str] = set()
        self.skipped: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for the set-up, the call and the end of each test."""
        if report.failed:
            self.failed.add(report.nodeid)
            print(f"\n{report.nodeid}\n{report.longreprtext}", flush=True)  # now: pytest tells at the end, hours later
        elif report.skipped:
            self.skipped[report.nodeid] = (
                report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected to fail"
            )
        elif report.when == "call":
            self.passed.add(report.nodeid)

    def word(self, tests: list[str]) -> str:
        """What became of a fault with these tests."""
        if failed := [test for test in tests if test in self.failed]:
            return f"NOT SURVIVED: {failed[0]}"
        if skipped := [test for test in tests if test in self.skipped]:
            return f"not tried: {self.skipped[skipped[0]].removeprefix('Skipped: ')}"
        return "survived" if all(test in self.passed for test in tests) else "NOT SURVIVED: its test did not end"


def main(workers: str, *words: str) -> int:
    """Try the faults whose row has one of the words, or all; 1 if one was not survived."""
    faults = [fault for fault in read_table() if not words or any(word in " ".join(fault) for word in words)]
    if not faults:
        print(f"no fault in {TABLE.relative_to(ROOT)} has one of: {', '.join(words)}", file=sys.stderr)
        return 2
    collected = collect("", files(faults))
    tests = {fault: [node for node in collected if fault.covers(node)] for fault in faults}
    for fault, nodes in tests.items():
        if not nodes:
            print(f"{TABLE.relative_to(ROOT)}: no test {fault.test} ({fault.fault})", file=sys.stderr)
            return 2
    outcomes = Outcomes()
    nodes = sorted({node for nodes in tests.values() for node in nodes}, key=collected.index)
    # Without the cache: it belongs to `make test`.
    pytest.main(["-q", "-m", "", "-n", workers, "-p", "no:cacheprovider", *nodes], plugins=[outcomes])

    words_of = {fault: outcomes.word(nodes) for fault, nodes in tests.items()}
    subject = ""
    for fault, word in words_of.items():
        if fault.subject != subject:
            subject = fault.subject
            print(f"\n{subject}")
        print(f"  {fault.fault}: {word}")
    survived = sum(word == "survived" for word in words_of.values())
    skipped = sum(word.startswith("not tried") for word in words_of.values())
    print(f"\ntried {len(faults) - skipped}, survived {survived}, not tried {skipped}")
    return int(survived + skipped < len(faults))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

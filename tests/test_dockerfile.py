"""The Dockerfile, without building it: its linter is content, and what it copies and installs exists."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "Dockerfile"


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--no-color", DOCKERFILE], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_it_copies_exists_and_is_not_ignored() -> None:
    sources = [path for line in re.findall(r"^COPY (.+)$", DOCKERFILE.read_text(), re.M) for path in line.split()[:-1]]
    assert {"pyproject.toml", "conf", "hybrid_patch", "launch"} <= set(sources)
    assert not [path for path in sources if not (ROOT / path).exists()]
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(allowed) == sorted(sources)


def test_what_it_installs_exists_for_its_python() -> None:
    text = DOCKERFILE.read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extra,) = re.findall(r'"\.\[(.+)\]"', text)
    assert extra in project["optional-dependencies"]
    (python,) = re.findall(r"^FROM python:(\d\.\d+)-slim", text, re.M)
    assert f"Python {python}," in (ROOT / "constraints.txt").read_text().splitlines()[0]
    (command,) = re.findall(r'^ENTRYPOINT \["(.+)"\]$', text, re.M)
    assert command in project["scripts"]

"""Copies of the code, with the installed packages, and of config folders: a later edit changes nothing submitted."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal

from hybrid_patch.config.sources import conf_folder
from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_bytes
from hybrid_patch.runs.provenance import SNAPSHOT, provenance

PARTS = ("hybrid_patch", "launch", "conf")
PATCH = "dirty.patch"
ENVIRONMENT = "environment.txt"
"""The packages that are installed where a sweep is submitted, as `pip freeze` lists them."""


def snapshot_code(store: Path, dirty: Literal["patch", "refuse"]) -> Path:
    """Copy the running code into a folder of the store, to import it from; equal code is stored once per environment.

    Its `snapshot.json` has the commit (None outside a checkout) and whether the code differs from that, by
    `dirty.patch`; ENVIRONMENT lists the packages. Raises InputError for uncommitted changes if `dirty` is refuse.
    """
    root = Path(__file__).resolve().parent.parent
    running, patch = provenance(), b""
    origin = {"commit": running["commit"], "dirty": running["dirty"]}
    if (root / SNAPSHOT).exists() or origin["commit"] is None:  # a copy already, or an installed package
        parts = PARTS if conf_folder().parent == root else PARTS[:2]  # a wheel has its conf/ in the package
        files = [path.relative_to(root) for part in parts for path in (root / part).rglob("*") if path.suffix != ".pyc"]
    else:
        files, patch = _checkout(root)
        origin["dirty"] = bool(patch)
        if patch and dirty == "refuse":
            raise InputError("cluster.dirty=refuse: there are uncommitted changes (git status); commit them, or =patch")
    more = {SNAPSHOT: json.dumps(origin, indent=1).encode(), ENVIRONMENT: frozen_environment().encode()}
    if patch:
        more[PATCH] = patch
    return _stored(store, root, files, more)


def snapshot_configs(store: Path, folder: Path) -> Path:
    """Copy the config groups of a folder into a folder of the store; equal ones are stored once."""
    return _stored(store, folder, [path.relative_to(folder) for path in folder.rglob("*.yaml")], {})


def _stored(store: Path, root: Path, files: Iterable[Path], more: Mapping[str, bytes]) -> Path:
    """Copy files below `root`, and `more` beside them, into a folder of the store that is named by their hash."""
    store.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=store))
    digest = hashlib.sha256()
    for path in sorted(path for path in files if (root / path).is_file()):
        (new / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, new / path)
        digest.update(os.fsencode(path) + hashlib.sha256((new / path).read_bytes()).digest())
    for name, content in more.items():
        write_bytes(new / name, content)
        digest.update(content)
    new.chmod(0o755)
    folder = store / digest.hexdigest()[:12]
    try:
        new.rename(folder)
    except OSError:  # it is there already
        shutil.rmtree(new)
        if not folder.exists():
            raise
    return folder


def frozen_environment() -> str:
    """The Python version, and a line per installed package in the form of a requirement: what pip can install again."""
    lines: dict[str, str] = {}
    for package in metadata.distributions():
        name = package.metadata["Name"]
        if not name:  # what an installation that broke off has left
            continue
        origin = json.loads(package.read_text("direct_url.json") or "{}")
        version_control = origin.get("vcs_info")
        if version_control:
            line = f"{name} @ {version_control['vcs']}+{origin['url']}@{version_control['commit_id']}"
        else:
            line = f"{name} @ {origin['url']}" if origin else f"{name}=={package.version}"
        lines.setdefault(name.lower(), line)  # of two by a name, the first is imported
    return "\n".join([f"# Python {platform.python_version()}", *(lines[name] for name in sorted(lines))]) + "\n"


def _checkout(root: Path) -> tuple[list[Path], bytes]:
    """The code's files, new ones included, and their patch against the commit."""
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": f"{scratch}/index"}  # the checkout's own stays as it is
        _git(root, index, "read-tree", "HEAD")
        _git(root, index, "add", "--intent-to-add", "--", *PARTS)
        files = _git(root, index, "ls-files", "-z", "--", *PARTS).split(b"\0")
        patch = _git(root, index, "diff", "--binary", "HEAD", "--", *PARTS)
    return [Path(os.fsdecode(name)) for name in files if name], patch


def _git(root: Path, variables: dict[str, str], *words: str) -> bytes:
    done = subprocess.run(["git", *words], cwd=root, env={**os.environ, **variables}, capture_output=True, check=False)
    if done.returncode:
        raise InputError(f"git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout

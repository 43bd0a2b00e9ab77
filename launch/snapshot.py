"""Copies of the code at a submission, so that a later edit changes nothing that was submitted."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hybrid_patch.config.sources import conf_folder
from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_bytes, write_json
from hybrid_patch.runs.provenance import SNAPSHOT, provenance

PARTS = ("hybrid_patch", "launch", "conf")
PATCH = "dirty.patch"


@dataclass(frozen=True)
class Snapshot:
    """A copy of the code.

    Attributes:
        folder: to import it from.
        commit: None for an installed package outside a checkout.
        dirty: whether it differs from the commit; `dirty.patch` has the difference.
    """

    folder: Path
    commit: str | None
    dirty: bool


def snapshot_code(store: Path, dirty: Literal["patch", "refuse"]) -> Snapshot:
    """Copy the running code into a folder of the store; equal code is stored once.

    Raises InputError for uncommitted changes if `dirty` is refuse.
    """
    root = Path(__file__).resolve().parent.parent
    origin = provenance()
    commit, changed, patch = origin["commit"], origin["dirty"], b""
    if (root / SNAPSHOT).exists() or commit is None:  # a copy already, or an installed package
        parts = PARTS if conf_folder().parent == root else PARTS[:2]  # a wheel has its conf/ in the package
        files = [path.relative_to(root) for part in parts for path in (root / part).rglob("*") if path.suffix != ".pyc"]
    else:
        files, patch = _checkout(root)
        changed = bool(patch)
        if changed and dirty == "refuse":
            raise InputError("cluster.dirty=refuse: there are uncommitted changes (git status); commit them, or =patch")
    files = sorted(path for path in files if (root / path).is_file())
    folder = store / _digest(root, files, f"{commit} {changed}")[:12]
    if not folder.exists():
        _copy(root, files, folder, {"commit": commit, "dirty": changed}, patch)
    return Snapshot(folder, commit, changed)


def _checkout(root: Path) -> tuple[list[Path], bytes]:
    """The code's files, new ones included, and their patch against the commit.

    Works on an index of its own: the checkout's stays as it is.
    """
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": f"{scratch}/index"}
        _git(root, index, "read-tree", "HEAD")
        _git(root, index, "add", "--intent-to-add", "--", *PARTS)
        files = _git(root, index, "ls-files", "-z", "--", *PARTS).split(b"\0")
        return [Path(os.fsdecode(name)) for name in files if name], _git(
            root, index, "diff", "--binary", "HEAD", "--", *PARTS
        )


def _digest(root: Path, files: Sequence[Path], origin: str) -> str:
    digest = hashlib.sha256(origin.encode())
    for path in files:
        digest.update(os.fsencode(path) + hashlib.sha256((root / path).read_bytes()).digest())
    return digest.hexdigest()


def _copy(root: Path, files: Sequence[Path], folder: Path, origin: dict[str, object], patch: bytes) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    for path in files:
        (new / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, new / path)
    if patch:
        write_bytes(new / PATCH, patch)
    write_json(new / SNAPSHOT, origin)
    new.chmod(0o755)
    try:
        new.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(new)


def _git(root: Path, variables: dict[str, str], *words: str) -> bytes:
    done = subprocess.run(["git", *words], cwd=root, env={**os.environ, **variables}, capture_output=True, check=False)
    if done.returncode:
        raise InputError(f"git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout

"""Copies of the code at a submission, so that a later edit changes nothing that was submitted."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

from hybrid_patch.config.compose import conf_folder
from hybrid_patch.errors import InputError
from hybrid_patch.runs.atomic_files import write_json, write_text
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
    if (root / SNAPSHOT).exists() or origin["commit"] is None:  # a copy already, or an installed package
        folder = store / _digest(root)[:12]
        if not folder.exists():
            _copy(root, folder, {"commit": origin["commit"], "dirty": origin["dirty"]})
        return Snapshot(folder, origin["commit"], origin["dirty"])
    with tempfile.TemporaryDirectory() as scratch:
        tree, patch = _tree(root, Path(scratch))
        changed = bool(patch)
        if changed and dirty == "refuse":
            raise InputError("cluster.dirty=refuse: there are uncommitted changes (git status); commit them, or =patch")
        folder = store / tree[:12]
        if not folder.exists():
            _unpack(root, Path(scratch), tree, patch, folder, origin["commit"])
    return Snapshot(folder, origin["commit"], changed)


def _tree(root: Path, scratch: Path) -> tuple[str, str]:
    """The git tree of the code with all changes and new files, and its patch against the commit.

    Index and objects go to a scratch folder: the checkout's own stay as they are.
    """
    _git(root, scratch, "read-tree", "HEAD")
    _git(root, scratch, "add", "--all", "--", *PARTS)
    tree = _git(root, scratch, "write-tree").strip()
    return tree, _git(root, scratch, "diff", "--binary", "HEAD", tree, "--", *PARTS)


def _unpack(root: Path, scratch: Path, tree: str, patch: str, folder: Path, commit: str) -> None:
    archive = _run(root, scratch, "archive", "--format=tar", tree, *PARTS)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(new, filter="data")
    if patch:
        write_text(new / PATCH, patch)
    write_json(new / SNAPSHOT, {"commit": commit, "dirty": bool(patch)})
    _rename_copy(new, folder)


def _digest(root: Path) -> str:
    """A hash of the packages' files."""
    digest = hashlib.sha256()
    for path in sorted(path for part in PARTS for path in (root / part).rglob("*") if path.is_file()):
        if path.suffix != ".pyc":
            digest.update(str(path.relative_to(root)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _copy(root: Path, folder: Path, record: dict[str, object]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    for package in ("hybrid_patch", "launch"):
        shutil.copytree(root / package, new / package, ignore=shutil.ignore_patterns("__pycache__"))
    if not (new / "hybrid_patch" / "conf").exists():
        shutil.copytree(conf_folder(), new / "conf")
    write_json(new / SNAPSHOT, record)
    _rename_copy(new, folder)


def _rename_copy(new: Path, folder: Path) -> None:
    """Rename a finished copy; another process may have been faster."""
    new.chmod(0o755)
    try:
        new.rename(folder)
    except OSError:
        shutil.rmtree(new)


def _git(root: Path, scratch: Path, *words: str) -> str:
    return _run(root, scratch, *words).decode(errors="surrogateescape")


def _run(root: Path, scratch: Path, *words: str) -> bytes:
    objects = subprocess.run(
        ["git", "rev-parse", "--git-path", "objects"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()
    variables = {
        "GIT_INDEX_FILE": str(scratch / "index"),
        "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((root / objects).resolve()),
    }
    (scratch / "objects").mkdir(exist_ok=True)
    done = subprocess.run(["git", *words], cwd=root, env={**os.environ, **variables}, capture_output=True, check=False)
    if done.returncode:
        raise InputError(f"git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout

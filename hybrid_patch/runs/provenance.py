"""Where a run's results come from."""

import json
import os
import platform
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

SNAPSHOT = "snapshot.json"
"""Names the commit that a copy of the code was made from; written by `launch`."""
PACKAGES = ("hybrid_patch", "torch", "numpy", "lightning-fabric", "hydra-core")


def provenance() -> dict[str, Any]:
    """Commit, versions and machine, for the record."""
    return {
        **_code(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "machine": {"host": socket.gethostname(), "cpus": os.cpu_count(), "platform": platform.platform()},
        "began": time.time(),
    }


def _code() -> dict[str, Any]:
    """The commit of the running code, and whether it has changed since; a snapshot records its own."""
    snapshot = Path(__file__).parents[2] / SNAPSHOT
    if snapshot.exists():
        return json.loads(snapshot.read_text())
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"commit": None, "dirty": False}  # installed, perhaps inside the checkout of another project
    return {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*words: str) -> str | None:
    """The output of git in this package's checkout; None outside one (an installed wheel)."""
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

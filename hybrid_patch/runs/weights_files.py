"""The files that `init.from` names: of a run, of an exported model, or of a folder of released weights."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from hybrid_patch.errors import InputError
from hybrid_patch.runs.checkpoint_files import checkpoint_parts, list_checkpoints
from hybrid_patch.runs.directory import CHECKPOINTS, CONFIG
from hybrid_patch.runs.exported import WEIGHTS, is_exported, local_folder

RELEASED: dict[Literal["galileo", "olmoearth"], tuple[str, ...]] = {
    "galileo": ("encoder.pt",),
    "olmoearth": ("weights.pth", "config.json"),
}
"""The files of released encoders: weights, and what else decides what they mean."""


class WeightsFiles(NamedTuple):
    """What a folder of weights is, and the file with them, or files; of released ones, the weights are the first."""

    folder: Path
    kind: Literal["run", "export", "galileo", "olmoearth"]
    files: tuple[Path, ...]


def find_weights(path: str) -> WeightsFiles:
    """Raises InputError for a folder without weights."""
    folder = local_folder(path)
    if is_exported(folder):
        return WeightsFiles(folder, "export", (folder / WEIGHTS,))
    for kind, names in RELEASED.items():
        if (folder / names[0]).is_file():
            return WeightsFiles(folder, kind, tuple(folder / name for name in names))
    if (folder / CONFIG).is_file():
        saved = list_checkpoints(folder / CHECKPOINTS)
        if not saved:
            raise InputError(f"init.from={path}: the run has no checkpoint yet; wait for one, or name another run")
        return WeightsFiles(folder, "run", checkpoint_parts(saved[-1][1]))
    reason = "there is no such folder" if not folder.exists() else "holds no weights"
    released = " or ".join(names[0] for names in RELEASED.values())
    raise InputError(
        f"init.from={path}: {reason}; give a run's folder, an exported model, or released weights ({released})"
    )


@cache
def weights_hash(path: str) -> str:
    """A hash of the weights in a folder, 16 hexadecimal digits. Raises InputError."""
    try:
        return files_hash(find_weights(path).files)
    except OSError as error:
        raise InputError(f"init.from={path}: {error}") from error


def files_hash(files: Iterable[Path]) -> str:
    """A hash of the contents of files in order, 16 hexadecimal digits. Raises OSError."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]

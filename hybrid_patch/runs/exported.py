"""The files of an exported model: a folder that a hub takes as it is."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from hybrid_patch.errors import InputError, require_extra
from hybrid_patch.runs.records import DamagedFileError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
"""The config of the training, without paths, and the step of the weights."""
MODALITIES = "modalities.json"
"""Bands, units' statistics and pixel sizes of what the model was trained on."""
CARD = "README.md"
"""What a person reads first."""
HUB = "hf://"


def is_exported(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file()


def local_folder(name: str | Path) -> Path:
    """A folder by its path, or the local copy of `hf://owner/name`. Raises InputError."""
    text = str(name)
    if not text.startswith(HUB):
        return Path(name)
    require_extra("hub", "huggingface_hub")
    try:
        return Path(import_module("huggingface_hub").snapshot_download(text.removeprefix(HUB)))
    except Exception as error:  # of the network, of the hub, of the name
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{text}: cannot be had from the hub: {reason}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of an exported model. Raises DamagedFileError."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DamagedFileError(path, error, "export the run again") from None
    if not isinstance(value, dict):
        raise DamagedFileError(path, "not an object", "export the run again")
    return value

"""The files of an exported model: a folder that a hub takes as it is."""

from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import TypedDict

from hybrid_patch.errors import InputError, require_extra
from hybrid_patch.runs.records import DamagedFileError, Parser, parser, read_record

T = TypeVar("T")

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
"""The config of the training, without paths, and the step of the weights."""
MODALITIES = "modalities.json"
"""Bands, units' statistics and pixel sizes of what the model was trained on."""
CARD = "README.md"
"""What a person reads first."""
HUB = "hf://"


class Described(TypedDict):
    """The content of `config.json`."""

    step: int
    config: dict[str, Any]
    classes: list[str]  # that the head predicts


DESCRIBED_OF: Parser[Described] = parser(Described)


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


def read_part(path: Path, parse: Parser[T]) -> T:
    """The content of a JSON file of an exported model. Raises DamagedFileError, also if there is none."""
    content = read_record(path, parse)
    if content is None:
        raise DamagedFileError(path, "absent", "export the run again")
    return content

"""Weights that a training begins with: of a run, exported or released ones."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import safetensors.torch
import torch
from torch import Tensor
from typing_extensions import TypedDict

from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Init, Part
from hybrid_patch.errors import InputError
from hybrid_patch.model import galileo
from hybrid_patch.model.hybrid import HybridModel
from hybrid_patch.model.olmoearth import weights as olmoearth
from hybrid_patch.model.released import ReleasedEncoder
from hybrid_patch.runs.checkpoints import first_difference, newest_checkpoint
from hybrid_patch.runs.directory import CHECKPOINTS
from hybrid_patch.runs.exported import MODALITIES, WEIGHTS, read_part
from hybrid_patch.runs.records import DamagedFileError, Parser, parser, read_record
from hybrid_patch.runs.weights_files import find_weights

PREFIXES: dict[Part, tuple[str, ...]] = {
    "encoder": ("encoder.",),
    "upsampler": ("encoder_upsampler.", "decoder_upsampler."),
    "decoder": ("decoder.",),
}
"""Of the names of a part's weights."""
MODALITIES_OF: Parser[dict[str, Modality]] = parser(dict[str, Modality])
FITTED = ("whitening.", "position_means.")
"""What has been fitted to an encoder's data, and comes along where it is there."""


class _Network(TypedDict):
    encoder_config: dict[str, Any]


class _Released(TypedDict):
    """What is read of the `config.json` of a released OlmoEarth."""

    model: _Network


RELEASED_OF: Parser[_Released] = parser(_Released)


class Pretrained(NamedTuple):
    """Weights by their names in a `HybridModel`, and what is told of them.

    Attributes:
        modalities: that they were trained on, with their statistics.
        settings: of a released encoder's network; see `ReleasedEncoder.difference`.
    """

    path: Path
    weights: dict[str, Tensor]
    modalities: dict[str, Modality]
    settings: Mapping[str, Any] | None = None


def read_pretrained(path: str) -> Pretrained:
    """Read weights without running code from them. Raises InputError."""
    source = find_weights(path)
    if source.kind == "run":
        checkpoint = newest_checkpoint(source.folder / CHECKPOINTS)
        assert checkpoint is not None
        modalities = {name: Modality(**fields) for name, fields in checkpoint.state["modalities"].items()}
        return Pretrained(source.folder, checkpoint.state["model"], modalities)
    if source.kind == "export":
        return Pretrained(source.folder, *read_exported(source.folder))
    file, *described = source.files
    convert = {"galileo": galileo.released_weights, "olmoearth": olmoearth.released_weights}[source.kind]
    try:
        state = convert(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever torch and pickle make of garbage
        raise DamagedFileError(file, (str(error).splitlines() or [type(error).__name__])[0]) from None
    weights = {f"encoder.network.{name}": tensor for name, tensor in state.items()}
    settings = _settings(described[0]) if described else None
    return Pretrained(source.folder, weights, {}, settings)


def read_exported(folder: Path) -> tuple[dict[str, Tensor], dict[str, Modality]]:
    """The weights and the modalities of an exported model. Raises DamagedFileError."""
    path = folder / WEIGHTS
    try:
        weights: dict[str, Tensor] = safetensors.torch.load_file(path)
    except Exception as error:  # whatever the library makes of garbage
        raise DamagedFileError(path, (str(error).splitlines() or [type(error).__name__])[0]) from None
    return weights, read_part(folder / MODALITIES, MODALITIES_OF)


def _settings(path: Path) -> dict[str, Any]:
    content = read_record(path, RELEASED_OF)
    if content is None:
        raise DamagedFileError(path, "absent", "it tells what the weights are of; put it beside them")
    return content["model"]["encoder_config"]


def begin_with(model: HybridModel, init: Init, pretrained: Pretrained) -> None:
    """Load the parts that `init` names into a model. Raises InputError if one is not there, or has other shapes.

    What belongs to modalities that the model does not have is left out, and an upsampler that an export does not have,
    the decoder's, begins anew.
    """
    current = model.state_dict()
    words = {word for name in current for word in name.split(".")}
    gone = pretrained.modalities.keys() - words
    weights = {name: x for name, x in pretrained.weights.items() if gone.isdisjoint(name.split("."))}
    for part in init.parts or get_args(Part):
        prefixes = tuple(prefix for prefix in PREFIXES[part] if _named(weights, (prefix,))) or PREFIXES[part]
        before, now = (_named(each, prefixes) for each in (weights, current))
        if not before and init.parts is None:
            continue
        different: str | None = first_difference(now, before)
        if part == "encoder" and isinstance(model.encoder, ReleasedEncoder) and pretrained.settings is not None:
            different = different or model.encoder.difference(pretrained.settings)
        if different:
            hint = "choose a model like it, or leave the part out of init.parts"
            raise InputError(f"init.from={pretrained.path}: its {part} is another: {different}; {hint}")
        fitted = _named(pretrained.weights, FITTED) if part == "encoder" else {}
        model.load_state_dict(before | {name: x for name, x in fitted.items() if name in current}, strict=False)


def freeze(model: HybridModel, parts: Collection[Part]) -> None:
    """Parts that are not trained."""
    for name, parameter in model.named_parameters():
        if any(name.startswith(PREFIXES[part]) for part in parts):
            parameter.requires_grad_(False)


def _named(weights: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name.startswith(prefixes)}

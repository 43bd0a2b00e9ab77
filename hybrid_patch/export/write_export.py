"""Writes the files of an exported model."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch

from hybrid_patch.config.compose import plain_values
from hybrid_patch.config.overrides import PATH_KEYS
from hybrid_patch.config.schema import Config
from hybrid_patch.embed.trained_model import TrainedModel, load
from hybrid_patch.errors import InputError
from hybrid_patch.export.model_card import model_card
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.exported import CARD, CONFIG, MODALITIES, WEIGHTS, is_exported

LEFT_OUT = ("decoder.", "decoder_upsampler.")
"""Of a model's weights: they only serve training."""


def write_export(run: Path, output: Path, license_name: str) -> list[Path]:
    """Write a run's model into a new folder, whole or not at all. Returns its files. Raises InputError."""
    if is_exported(run):
        raise InputError(f"run={run}: is an exported model already; give a run's folder")
    if output.exists():
        raise InputError(f"output={output}: exists; give a new folder")
    model = load(run, "cpu")
    temporary = output.with_name(f".{output.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"output={output}: cannot be made ({error.strerror}); give another") from error
    state = {name: x.contiguous() for name, x in model.network.state_dict().items() if not name.startswith(LEFT_OUT)}
    safetensors.torch.save_file(state, temporary / WEIGHTS, metadata={"format": "pt"})
    texts = {
        CONFIG: _json({"step": model.step, "config": without_paths(model.config), "classes": model.classes}),
        MODALITIES: _json({name: dataclasses.asdict(m) for name, m in _without_files(model).items()}),
        CARD: model_card(model, RunDirectory(run), license_name),
    }
    for name, text in texts.items():
        (temporary / name).write_text(text)
    temporary.rename(output)
    return [output / name for name in (WEIGHTS, *texts)]


def without_paths(config: Config) -> dict[str, Any]:
    """The plain values of a config, without paths of this machine."""
    plain = plain_values(config)
    for path_key in PATH_KEYS:
        group, _, key = path_key.rpartition(".")
        holder = plain[group] if group else plain
        if key in holder:
            holder[key] = "data" if key == "root" else None  # which is mandatory
    plain["data"]["modalities"] = {}
    plain["init"]["parts"] = None
    return plain


def _without_files(model: TrainedModel) -> dict[str, Any]:
    return {name: dataclasses.replace(modality, files=None) for name, modality in model.modalities.items()}


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"

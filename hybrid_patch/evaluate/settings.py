"""The data and settings of a finished run's evaluation: its own data and `evaluation=full`, plus overrides."""

import dataclasses
import re
from collections.abc import Sequence

from omegaconf import OmegaConf

from hybrid_patch.config.compose import checked, composed, held_to_schema, plain_values
from hybrid_patch.config.overrides import hydra_overrides, parse, quote_path
from hybrid_patch.config.schema import Data, Evaluation
from hybrid_patch.config.sources import Sources
from hybrid_patch.embed.trained_model import TrainedModel


def settings_of(model: TrainedModel, overrides: Sequence[str]) -> tuple[Data, Evaluation]:
    """The data and the settings, with `data…` and `evaluation…` overrides. Raises InputError.

    Modalities, their statistics, tile and timesteps stay the run's, because inputs must be normalised as in training;
    overrides of single values can still change them.
    """
    sources = Sources()
    values = [line for line in overrides if re.match(r"\+*(data|evaluation)\.", line)]
    groups = [line for line in overrides if line not in values]
    node = plain_values(model.config)
    modalities = {name: dataclasses.asdict(modality) for name, modality in model.modalities.items()}
    config = composed(hydra_overrides(["evaluation=full", *groups], sources), sources)
    merged = OmegaConf.create(node)
    merged.evaluation = config.evaluation
    if any(line.startswith("data=") for line in groups):
        merged.data = config.data
    merged.data.tile, merged.data.timesteps = node["data"]["tile"], node["data"]["timesteps"]
    merged.data.modalities = modalities
    for value in (parse(quote_path(line)) for line in values):
        OmegaConf.update(merged, value.key_or_group, value.value(), force_add=True)
    valid = checked(held_to_schema(merged, sources))
    return valid.data, valid.evaluation

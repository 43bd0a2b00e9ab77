"""On what, and how, a finished run is evaluated: its own data and `evaluation=full`, changed by overrides."""

import dataclasses
import re
from collections.abc import Sequence

from omegaconf import OmegaConf
from pydantic import TypeAdapter

from hybrid_patch.config.compose import Sources, checked, composed, held_to_schema, hydra_overrides, parse
from hybrid_patch.config.literal import quote_path
from hybrid_patch.config.schema import Config, Data, Evaluation
from hybrid_patch.embed.trained_model import TrainedModel

_CONFIG = TypeAdapter(Config)


def settings_of(model: TrainedModel, overrides: Sequence[str]) -> tuple[Data, Evaluation]:
    """The data and the evaluation of a command line's `data…` and `evaluation…` overrides.

    Modalities, tile and timesteps are the run's unless they are overridden, and its statistics are kept: what the model
    sees must be normalised as it was in training. Raises InputError.
    """
    sources = Sources()
    fresh = any(re.match(r"data=", override) for override in overrides)
    node = _CONFIG.dump_python(model.config, mode="json")
    modalities = {name: dataclasses.asdict(modality) for name, modality in model.modalities.items()}
    groups = ["evaluation=full", *(line for line in overrides if not _is_value(line))]
    config = composed(hydra_overrides(groups, sources), sources)
    own = OmegaConf.create(node)
    own.evaluation = config.evaluation
    if fresh:
        own.data = config.data
    own.data.tile, own.data.timesteps = node["data"]["tile"], node["data"]["timesteps"]
    own.data.modalities = modalities
    for value in (parse(quote_path(line)) for line in overrides if _is_value(line)):
        OmegaConf.update(own, value.key_or_group, value.value(), force_add=True)
    judged = checked(held_to_schema(own, sources))
    return judged.data, judged.evaluation


def _is_value(override: str) -> bool:
    return bool(re.match(r"\+*(data|evaluation)\.", override))

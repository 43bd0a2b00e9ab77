"""A config frozen in its run's directory: resolved, and read back without Hydra's groups."""

from pathlib import Path

import yaml
from omegaconf import OmegaConf

from hybrid_patch.config.compose import Sources, held_to_schema, plain_values
from hybrid_patch.config.schema import Config
from hybrid_patch.errors import InputError

NAME = "config.yaml"
# The loader and dumper in C are ten times faster; both are part of PyYAML's wheels.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def as_yaml(config: Config) -> str:
    """The text of `config.yaml`."""
    return yaml.dump(plain_values(config), Dumper=_DUMPER, sort_keys=False)


def frozen_config(folder: Path) -> Config:
    """The config of the run in a directory. Raises InputError if there is none."""
    path = folder / NAME
    if not path.is_file():
        raise InputError(f"run={folder}: not a run directory; there is no {NAME} in it")
    return held_to_schema(OmegaConf.create(yaml.load(path.read_text(), Loader=LOADER)), Sources())

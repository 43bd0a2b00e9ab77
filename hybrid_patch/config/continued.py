"""The config of a run that goes on from another's state: that run's config, with overrides on top."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hybrid_patch.config.continue_options import ContinueFrom
from hybrid_patch.config.overrides import key_of, parse
from hybrid_patch.config.schema import Config
from hybrid_patch.errors import InputError

KEY = "continue_from"
FIXED = ("model", "upsampler", "decoder", "head", "init", "target.name", "data.modalities")
"""What the state of a training is of."""
FREE = ("upsampler.pixel_dropout",)
"""What of these leaves the weights as they are."""
RENEWED = ("run_dir", "sweep_name")
"""What a run does not take over: where it lives."""


def continued_run(overrides: Sequence[str]) -> str | None:
    """The run that overrides, in Hydra's grammar, name to go on from."""
    runs = [parse(text).value() for text in overrides if key_of(text) == KEY]
    return None if not runs or runs[-1] is None else str(runs[-1])


def groups_and_values(overrides: Sequence[str], groups: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Overrides that choose an option of a group, and those that set a value. Raises InputError for any other."""
    rest = [text for text in overrides if key_of(text) != KEY]
    chosen = [text for text in rest if key_of(text) in groups and key_of(text) in Config.__dataclass_fields__]
    values = [text for text in rest if text.startswith("++")]
    if others := [text for text in rest if text not in chosen and text not in values]:
        wrong = "with continue_from the config is the run's"
        raise InputError(f"{others[0]}: {wrong}; set single values, or choose options of the groups of a run")
    return chosen, values


def with_choices(plain: dict[str, Any], state: ContinueFrom, chosen: Sequence[str], composed: DictConfig) -> DictConfig:
    """The plain config of a run to go on from, with the options that are `chosen`.

    `composed` is Hydra's config of these options, and of the run's curriculum where it is not among them: patch sizes
    that a curriculum takes from `patch` follow it again.
    """
    config = OmegaConf.create(with_its_weights(plain))
    for key in RENEWED:
        config[key] = composed[key]
    for group in map(key_of, chosen):
        config[group] = composed[group]
    if "curriculum" not in map(key_of, chosen):
        same = OmegaConf.create({"patch": plain["patch"], "curriculum": composed.curriculum})
        if OmegaConf.to_container(same.curriculum, resolve=True) == plain["curriculum"]:
            config.curriculum = composed.curriculum
    config[KEY] = asdict(state)
    return config


def with_its_weights(plain: dict[str, Any]) -> dict[str, Any]:
    """The plain config of a run, without the weights that it began with unless they are its teacher's."""
    if plain["target"]["name"] == "self":
        return plain
    return {**plain, "init": {**plain["init"], "from": None, "parts": None}}


def refuse_another_model(before: dict[str, Any], now: dict[str, Any], overrides: Sequence[str]) -> None:
    """Raises InputError if a plain config is not one for the weights and the optimizer of the run `before`."""
    run, before = now[KEY]["run"], with_its_weights(before)
    for key in FIXED:
        old, new = (_without_free(key, _at(plain, key)) for plain in (before, now))
        if old != new and not (key == "data.modalities" and not new):  # rasters: found in the folder
            given = [text.lstrip("+") for text in overrides if _overlap(key_of(text), key)]
            remedy = f"leave that out, or begin anew with init.from={run}"
            raise InputError(f"{' '.join(given)}: another {key} than that of {KEY}={run}; {remedy}")
    for name, term in now["loss"].items():
        if isinstance(term, dict) and bool(term["weight"]) != bool(before["loss"][name]["weight"]):
            wrong = "a term can be weighed anew, but not begin or end, when a training goes on"
            raise InputError(f"loss.{name}.weight={term['weight']:g}: {wrong}; init.from={run} begins anew with it")


def _overlap(key: str, other: str) -> bool:
    """Whether one of two dotted keys is in the other's group, or both are the same."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _at(plain: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        plain = plain[name]
    return plain


def _without_free(key: str, node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {name: value for name, value in node.items() if f"{key}.{name}" not in FREE}

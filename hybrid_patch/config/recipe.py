"""The recipe: the part of a config that can change a result, what it hashes to, and where its run lives."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from operator import methodcaller
from pathlib import Path
from typing import Any, TypedDict

from hybrid_patch.config.compose import plain_values
from hybrid_patch.config.fields import without_aside
from hybrid_patch.config.schema import Config, Data
from hybrid_patch.runs.sweep_manifest import RUNS
from hybrid_patch.runs.weights_files import weights_hash

RECIPE_VERSION = 7
"""Raised when the same recipe would train another way than before, so that it becomes another run (CHANGELOG.md)."""

Fingerprint = Callable[[Data], str]
_of_the_data: Fingerprint = methodcaller("fingerprint")


def read_once() -> Fingerprint:
    """A fingerprint that reads each data set once."""
    fingerprints: dict[str, str] = {}

    def fingerprint(data: Data) -> str:
        key = repr(data)
        if key not in fingerprints:
            fingerprints[key] = data.fingerprint()
        return fingerprints[key]

    return fingerprint


def recipe(config: Config, fingerprint: Fingerprint = _of_the_data) -> dict[str, Any]:
    """The recipe as plain values: the config without its `Aside` fields, the identity of the data and of the weights
    that it begins with, and the version."""
    fields = without_aside(Config, plain_values(config))
    fields["data"]["fingerprint"] = fingerprint(config.data)
    if config.continue_from is None:
        del fields["continue_from"]  # ids are as they were without it
    fields["init"]["fingerprint"] = None if config.init.from_ is None else weights_hash(config.init.from_)
    return {"recipe_version": RECIPE_VERSION, **fields}


def run_id(config: Config, fingerprint: Fingerprint = _of_the_data) -> str:
    """A folder name with the recipe's hash in it: `hybrid8-1_guided_nano_synthetic_s0_0f3a9c21d4`."""
    return identity(config, fingerprint)["run_id"]


class Identity(TypedDict):
    """What a run is. Made once per start and passed on: its fingerprint may read the whole data folder."""

    run_id: str
    recipe_hash: str
    recipe: dict[str, Any]


def identity(config: Config, fingerprint: Fingerprint = _of_the_data) -> Identity:
    """The identity of a config's run; the hash is SHA-256 of the recipe, 64 hexadecimal digits."""
    plain = recipe(config, fingerprint)
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return {"run_id": _name(config, digest), "recipe_hash": digest, "recipe": plain}


def _name(config: Config, digest: str) -> str:
    coarse, fine = config.patch.processing_patch_size, config.patch.output_patch_size
    patch = f"ps{coarse}" if coarse == fine else f"hybrid{coarse}-{fine}_{config.upsampler.name}"
    model = re.sub(r"[^A-Za-z0-9-]", "-", config.model.name)[:40]
    return f"{patch}_{model}_{config.data.name}_s{config.seed}_{digest[:10]}"


def run_directory(config: Config, run_id: str) -> Path:
    """Where the run lives: `run_dir` if it is given, else `runs/<sweep_name>/<run id>`."""
    return RUNS / config.sweep_name / run_id if config.run_dir is None else Path(config.run_dir)


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What changed between two recipes, a line for each value: `optimizer.lr: 0.001 -> 0.002`."""
    before, after = dict(leaves(old)), dict(leaves(new))
    lines = [(key, before.get(key, "(none)"), after.get(key, "(none)")) for key in {**before, **after}]
    return [f"{key}: {a} -> {b}" for key, a, b in lines if a != b]


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a recipe by dotted key, as JSON. Lists of plain values are leaves."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}" if key else name)
    elif isinstance(node, list) and any(isinstance(item, dict | list) for item in node):
        for i, item in enumerate(node):
            yield from leaves(item, f"{key}[{i}]")
    else:
        yield key, json.dumps(node, ensure_ascii=False)

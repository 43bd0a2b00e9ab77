"""The recipe: what changes it, what leaves it alone, and where its run lives."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from config_commands import ran
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hybrid_patch.config import fields
from hybrid_patch.config.compose import compose
from hybrid_patch.config.recipe import difference, identity, recipe, run_directory, run_id
from hybrid_patch.config.schema import Config, Data

ADAPTER = TypeAdapter(Config)
CHOICES: list[list[str]] = [
    [],
    ["data=olmoearth", "data.root=/", "upsampler=learned", "runtime=gpu", "masking=modality_cross_random"],
    ["data=rasters", "data.root=/", "logger=none", "evaluation=none", "runtime=ddp", "model=tiny"],
]
PLAIN: list[dict[str, Any]] = [
    ADAPTER.dump_python(compose(overrides), mode="json", by_alias=True) for overrides in CHOICES
]

Path_ = tuple[str | int, ...]


def fingerprint(data: Data) -> str:
    """Of data that are the same wherever they lie."""
    return "data"


def walk(annotation: Any, value: Any, aside: bool = False, path: Path_ = ()) -> Iterator[tuple[Path_, Any, bool]]:
    """The leaves of a plain config: path, annotation, and whether they are marked `Aside`."""
    aside = aside or fields.strip(annotation)[1]
    cls = fields.class_of(annotation, value)
    if isinstance(value, dict) and (cls is not None or get_origin(fields.strip(annotation)[0]) is dict):
        for key in value:
            yield from walk(fields.child(annotation, value, key), value[key], aside, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for i, item in enumerate(value):
            yield from walk(fields.child(annotation, value, i), item, aside, (*path, i))
    else:
        yield path, annotation, aside


def is_bound(path: Path_) -> bool:
    """Leaves that cannot change alone: an option's name, and what a modality's own rules tie together."""
    options = ("upsampler", "data", "masking", "target", "head", "optimizer", "logger")
    chooses = path[-1] == "name" and path[0] in options
    tied = "modalities" in path and path[-1] not in ("temporal", "gsd", "files")
    weights = path in (("init", "from"), ("continue_from",))  # their hash is in the recipe
    return chooses or tied or weights


LEAVES = [
    (which, path, annotation, aside)
    for which, plain in enumerate(PLAIN)
    for path, annotation, aside in walk(Config, plain)
    if not is_bound(path)
]
ASIDE = [leaf for leaf in LEAVES if leaf[3]]
IN_RECIPE = [leaf for leaf in LEAVES if not leaf[3]]


def other(annotation: Any, value: Any) -> Any:
    """Another value that the schema allows in the same place."""
    bare, _ = fields.strip(annotation)
    if get_origin(bare) is Literal:
        return next(choice for choice in get_args(bare) if choice != value)
    if fields.options(annotation) and value is None:
        return {"name": "bilinear"}
    if bare is bool:
        return not value
    if bare is int:
        return 7 if value is None else value + 1
    if bare is float:
        return value / 2 if value else 0.25
    if bare is str:
        return "another" if value is None else f"{value}x"
    return [other(get_args(bare)[0], None)] if not value else value[:-1]


def changed(which: int, paths: list[tuple[Path_, Any]]) -> Config:
    plain = copy.deepcopy(PLAIN[which])
    for path, annotation in paths:
        node = plain
        for key in path[:-1]:
            node = node[key]  # type: ignore[index]
        node[path[-1]] = other(annotation, node[path[-1]])  # type: ignore[index]
    return ADAPTER.validate_json(json.dumps(plain))


def hashed(which: int) -> str:
    return identity(changed(which, []), fingerprint)["recipe_hash"]


def test_there_is_something_of_both_kinds() -> None:
    assert {path[-1] for _, path, _, _ in ASIDE} >= {"run_dir", "root", "workers", "device", "chunk", "every"}
    assert {path[-1] for _, path, _, _ in IN_RECIPE} >= {"seed", "lr", "tile", "steps", "precision", "share", "gsd"}


@pytest.mark.sample(30)
@pytest.mark.parametrize(("which", "path", "annotation", "aside"), ASIDE)
def test_a_value_aside_leaves_the_recipe_alone(which: int, path: Path_, annotation: Any, aside: bool) -> None:
    config = changed(which, [(path, annotation)])
    assert identity(config, fingerprint)["recipe_hash"] == hashed(which)
    assert run_id(config, fingerprint) == run_id(changed(which, []), fingerprint)


@given(st.data())
def test_any_values_aside_together_leave_the_recipe_alone(data: st.DataObject) -> None:
    which = data.draw(st.integers(0, len(PLAIN) - 1))
    candidates = [(path, annotation) for w, path, annotation, _ in ASIDE if w == which]
    chosen = data.draw(st.lists(st.sampled_from(candidates), unique_by=lambda leaf: leaf[0]))
    assert identity(changed(which, chosen), fingerprint)["recipe_hash"] == hashed(which)


def test_every_value_of_the_recipe_changes_it() -> None:
    for which in range(len(PLAIN)):
        hashes = [identity(changed(w, [(p, a)]), fingerprint)["recipe_hash"] for w, p, a, _ in IN_RECIPE if w == which]
        assert len({hashed(which), *hashes}) == 1 + len(hashes)


def test_other_data_are_another_recipe() -> None:
    config = compose()
    assert identity(config, lambda data: "a")["recipe_hash"] != identity(config, lambda data: "b")["recipe_hash"]


def test_the_options_of_a_group_are_other_recipes() -> None:
    chosen = ["seed=0", "upsampler=learned", "masking=modality_cross_random", "patch=ps8", "model=tiny"]
    assert len({run_id(compose([override]), fingerprint) for override in chosen}) == len(chosen)


@pytest.mark.parametrize("same", ["optimizer.lr=1e-3", "loss.decoded.weight=1", "logger=none", "evaluation=none"])
def test_another_spelling_is_the_same_recipe(same: str) -> None:
    assert identity(compose([same]), fingerprint)["recipe_hash"] == identity(compose(), fingerprint)["recipe_hash"]


def test_the_order_of_keys_is_no_part_of_the_recipe() -> None:
    config = compose()
    modalities = dict(reversed(config.data.modalities.items()))
    turned = replace(config, data=replace(config.data, modalities=modalities))
    assert list(recipe(turned, fingerprint)["data"]["modalities"]) == list(modalities)
    assert identity(turned, fingerprint)["recipe_hash"] == identity(config, fingerprint)["recipe_hash"]


def test_a_device_is_no_part_of_the_recipe_but_its_precision_is() -> None:
    cpu = compose()
    gpu = compose(["runtime=gpu"])
    assert difference(recipe(cpu, fingerprint), recipe(gpu, fingerprint)) == [
        'runtime.precision: "32-true" -> "bf16-mixed"'
    ]


def test_the_version_is_in_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(compose(), fingerprint)["recipe_hash"]
    monkeypatch.setattr("hybrid_patch.config.recipe.RECIPE_VERSION", 0)
    assert identity(compose(), fingerprint)["recipe_hash"] != before


def test_the_hash_does_not_change_by_itself() -> None:
    # The same in every process, on every machine: no memory address, no set order, no locale.
    ids = {ran(Path.cwd(), module="config_print_run_id", PYTHONHASHSEED=seed).stdout for seed in ("1", "2")}
    assert ids == {run_id(compose(), fingerprint) + "\n"}


def test_a_run_id_is_readable_and_safe_as_a_folder_name() -> None:
    config = compose(["seed=3", "model.name='a/b c$\\n'", "patch.output_patch_size=2"])
    name = run_id(config, fingerprint)
    assert name.startswith("hybrid8-2_guided_a-b-c")
    assert name.endswith("_synthetic_s3_" + identity(config, fingerprint)["recipe_hash"][:10])
    assert all(c.isalnum() or c in "_-" for c in name)
    assert run_id(compose(["patch=ps8"]), fingerprint).startswith("ps8_nano_synthetic_s0_")


def test_where_a_run_lives() -> None:
    config = compose(["sweep_name=mine"])
    assert run_directory(config, run_id(config, fingerprint)) == Path("runs/mine") / run_id(config, fingerprint)
    assert run_directory(compose(["run_dir=a, b"]), "id") == Path("a, b")


def test_difference() -> None:
    old = recipe(compose(["upsampler=bilinear"]), fingerprint)
    new = recipe(compose(["optimizer.lr=0.002", "upsampler=learned", "data.modalities.srtm.gsd=30"]), fingerprint)
    assert difference(old, new) == [
        'upsampler.name: "bilinear" -> "learned"',
        "data.modalities.srtm.gsd: 10.0 -> 30.0",
        "optimizer.lr: 0.001 -> 0.002",
        "upsampler.width: (none) -> 64",
    ]
    assert difference(old, old) == []

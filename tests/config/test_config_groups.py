"""The yaml files of conf/: every option composes, rejects what is not its own, and says what is in the recipe."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hybrid_patch.config import fields
from hybrid_patch.config.compose import compose
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sources import Sources, conf_folder
from hybrid_patch.errors import InputError

NO_RUN = ("cluster", "sweep", "search")
"""Groups that are no part of a run's config."""
GROUPS = {group: names for group, names in Sources().groups().items() if group not in ("cluster", "search")}
OPTIONS = [(group, option) for group, names in GROUPS.items() if group not in NO_RUN for option in names]
RUN_OPTIONS = [(group, option) for group, option in OPTIONS if group not in ("modality", "experiment")]
FILES = sorted(
    path for path in conf_folder().rglob("*.yaml") if path.parent.name not in NO_RUN and path.stem != "launch"
)
HEADINGS = {"# changes the result": False, "# does not change the result": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data folder that has all that the options ask of one."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "labels").mkdir()
    return str(folder)


def needed(group: str, option: str, root: str) -> list[str]:
    """The overrides that an option cannot do without."""
    if (group, option) in (("head", "linear"), ("head", "conv"), ("loss", "none"), ("target", "labels")):
        words = ("target=labels", "masking=none", "loss=none", "head=linear")
        return [word for word in words if not word.startswith(f"{group}=")]
    roots = ("rasters", "olmoearth", "landcover", "olmoearth_base", "released_encoder")
    beside = {("target", "self"): ["loss=visible", "masking=none"], ("masking", "none"): ["loss=visible"]}
    rooted = group in ("data", "experiment") and option in roots
    return beside.get((group, option), [f"data.root={root}"] if rooted else [])


@pytest.mark.sample(12)
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str, root: str) -> None:
    if group == "modality":
        names = {option, "sentinel2_l2a"}  # beside one that can be encoded
        chosen = ["data=rasters", f"data.root={root}", *(f"+modality@data.modalities.{n}={n}" for n in names)]
    else:
        chosen = [f"{group}={option}", *needed(group, option, root)]
    assert isinstance(compose(chosen), Config)


def test_a_chosen_group_wins_over_an_experiment() -> None:
    demo, quiet = compose(["experiment=demo"]), compose(["experiment=demo", "evaluation=none"])
    assert demo.evaluation.tiles == 24
    assert quiet.evaluation == compose(["evaluation=none"]).evaluation
    assert quiet.data == demo.data
    assert compose(["evaluation=none", "evaluation.tiles=3", "experiment=demo"]).evaluation.tiles == 3
    assert compose(["experiment=demo", "optimizer.lr=.1"]).optimizer.lr == 0.1


ADDED = [("", *pair) for pair in RUN_OPTIONS] + [("+", "data", "synthetic"), ("++", "patch", "ps1")]


@pytest.mark.sample(8)
@pytest.mark.parametrize(("plus", "group", "option"), ADDED)
def test_an_added_key_is_rejected_in_every_option(plus: str, group: str, option: str, root: str) -> None:
    with pytest.raises(InputError) as error:
        compose([f"{group}={option}", *needed(group, option, root), f"{plus}{group}.surely_not=3"])
    assert str(error.value).startswith(f"{group}.surely_not=3: unknown key; ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "key",
    [
        "model.encoder",
        "model.decoder",
        "loss.decoded",
        "loss.reconstruct",
        "curriculum.stages.0",
        "data.modalities.sentinel1",
        "hydra.job",
    ],
)
def test_an_added_key_is_rejected_below_the_groups(key: str) -> None:
    with pytest.raises(InputError, match=r"surely_not=3: ") as error:
        compose([f"{key}.surely_not=3"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("group", sorted(set(GROUPS) - {"modality", "sweep"}))
def test_an_unknown_option_is_answered_with_the_options(group: str) -> None:
    name = GROUPS[group][0]
    with pytest.raises(InputError) as error:
        compose([f"{group}={name}x"])
    message = str(error.value)
    assert message.startswith(f"{group}={name}x: no such option; takes: {', '.join(GROUPS[group])}")
    assert message.endswith(f"(did you mean {name}?)")


def leaves(node: yaml.Node, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], int]]:
    """The values of a yaml document: where they are in it, and on which line."""
    if isinstance(node, yaml.MappingNode) and node.value:
        return [leaf for key, value in node.value for leaf in leaves(value, (*path, key.value))]
    return [(path, node.start_mark.line)]


def aside(annotation: Any, value: Any, path: tuple[str | int, ...]) -> bool:
    """Whether the schema leaves a value out of the recipe."""
    is_aside = fields.strip(annotation)[1]
    for key in path:
        annotation = fields.child(annotation, value, key)
        assert annotation is not None, path
        value = value.get(key) if isinstance(value, dict) else None
        is_aside = is_aside or fields.strip(annotation)[1]
    return is_aside


def headings(text: str) -> list[bool | None]:
    """For every line, what the heading above it says: True for `does not change the result`."""
    current: bool | None = None
    lines = []
    for line in text.splitlines():
        current = HEADINGS.get(line.strip(), current)
        lines.append(current)
    return lines


def option_of(experiment: Path, group: str) -> str:
    """The option that an experiment's defaults list chooses, itself or by the experiment it builds on."""
    defaults = yaml.safe_load(experiment.read_text())["defaults"]
    chosen: list[str] = [entry[f"override /{group}"] for entry in defaults if f"override /{group}" in entry]
    return chosen[0] if chosen else option_of(experiment.with_name(f"{defaults[0]}.yaml"), group)


@pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_headings_of_a_file_agree_with_the_schema(file: Path) -> None:
    text = file.read_text()
    plain, said = yaml.safe_load(text), headings(text)
    for group in ("data", "upsampler", "target") if file.parent.name == "experiment" else ():
        if group in plain:  # its class is chosen by the defaults list
            plain[group]["name"] = option_of(file, group)
    group = file.parent.relative_to(conf_folder()).as_posix()
    top: Any = {".": Config, "experiment": Config, "modality": Modality}.get(group) or fields.annotations(Config)[group]
    for path, line in leaves(yaml.compose(text)):
        if path[0] in ("defaults", "hydra"):
            continue
        assert said[line] == aside(top, plain, path), f"{file.name}: {'.'.join(map(str, path))}"


def test_the_headings_of_the_defaults_list_agree_with_the_schema() -> None:
    said = headings((conf_folder() / "config.yaml").read_text())
    document = yaml.compose((conf_folder() / "config.yaml").read_text())
    (defaults,) = [value for key, value in document.value if key.value == "defaults"]
    judged = 0
    for entry in defaults.value:
        group = entry.value[0][0].value if isinstance(entry, yaml.MappingNode) else ""
        if group in fields.annotations(Config):
            assert said[entry.start_mark.line] == fields.strip(fields.annotations(Config)[group])[1], group
            judged += 1
    assert judged == len(set(GROUPS) - {"modality", "experiment", "sweep"})


def test_the_named_sizes() -> None:
    sizes = {
        "nano": (128, 4, 8),
        "tiny": (192, 12, 3),
        "small": (384, 12, 6),
        "base": (768, 12, 12),
        "large": (1024, 24, 16),
    }
    for name, (width, depth, heads) in sizes.items():
        model = compose([f"model={name}"]).model
        for part, blocks in ((model.encoder, depth), (model.decoder, 4)):
            assert (part.width, part.depth, part.heads, part.mlp_ratio) == (width, blocks, heads, 4)


def test_the_recipe_of_olmoearth(root: str) -> None:
    config = compose(["experiment=olmoearth_base", f"data.root={root}"])
    assert (config.model.encoder.drop_path, config.model.decoder.drop_path) == (0.1, 0.0)
    assert config.model.pixel_hidden_width == 64
    assert config.masking.name == "random_time_with_decode"
    assert config.masking.band_dropout == {"sentinel2_l2a": 0.2, "landsat": 0.2}
    inputs = {name: len(m.band_sets) for name, m in config.data.modalities.items() if not m.decode_only}
    assert inputs == {"sentinel2_l2a": 1, "sentinel1": 1, "landsat": 1}  # maps and elevation are targets
    assert round(config.optimizer.warmup * config.trainer.steps, -3) == 8000


def test_any_two_patch_sizes_reach_the_curriculum() -> None:
    config = compose(["patch.processing_patch_size=16", "patch.output_patch_size=2"])
    (stage,) = config.curriculum.stages
    assert (stage.processing_patch_size, stage.output_patch_size, stage.share) == (16, 2, 1.0)


def test_a_modality_can_be_added_and_taken_away(root: str) -> None:
    chosen = ["data=olmoearth", f"data.root={root}", "+modality@data.modalities.landsat=landsat"]
    config = compose([*chosen, "~data.modalities.srtm"])
    assert "landsat" in config.data.modalities
    assert "srtm" not in config.data.modalities

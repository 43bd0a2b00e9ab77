"""Composed together, the members of a sweep are what they are one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_patch.config.compose import compose
from hybrid_patch.config.sources import Sources
from hybrid_patch.config.sweep import Composer, each_config, sweep_members
from hybrid_patch.errors import InputError

SOURCES = Sources()
COMPOSER = Composer(SOURCES)
WORDS = (
    "upsampler=learned",
    "upsampler.width=16",
    "+upsampler.width=8",
    "upsampler=nonsense",
    "experiment=demo",
    "patch=ps8",
    "patch.output_patch_size=2",
    "curriculum=gradual",
    "curriculum.stages=[{processing_patch_size:8,output_patch_size:1,share:1.0}]",
    "~data.modalities.srtm",
    "data.modalities.srtm.gsd=30.0",
    "+modality@data.modalities.landsat=landsat",
    "seed=3",
    "seed=x",
    "trainer.steps=7",
    "data.tile=60",
    "sweep_name=${model.name}",
    "run_dir=a path, with ${seed}",
    "optimizer={lr:0.5}",
    "nosuch.key=1",
)


def said(arguments: list[str], together: bool) -> object:
    try:
        return COMPOSER.config(arguments) if together else compose(arguments, SOURCES)
    except InputError as error:
        return str(error)


@pytest.mark.full
@given(st.lists(st.sampled_from(WORDS), max_size=5, unique=True))
def test_the_same_configs_and_the_same_errors(arguments: list[str]) -> None:
    assert said(arguments, together=True) == said(arguments, together=False)


def test_a_modality_is_added_to_every_member() -> None:
    added = "+modality@data.modalities.landsat=landsat"
    assert sweep_members([added, "seed=0,1"], SOURCES) == [[added, f"seed={seed}"] for seed in (0, 1)]


def test_each_line_has_its_config_or_its_error() -> None:
    lines = sweep_members(["+sweep=upsampler", "seed=0,-1"], SOURCES)
    configs = each_config(lines, SOURCES)
    assert len(configs) == 8
    for line, each in zip(lines, configs, strict=True):
        if "seed=-1" in line:
            assert isinstance(each, InputError)
        else:
            assert each == compose(line, SOURCES)


def test_a_member_does_not_change_the_next() -> None:
    first = COMPOSER.config(["data.tile=32", "model.encoder.depth=1"])
    second = COMPOSER.config(["data.tile=32"])
    assert first.model.encoder.depth == 1
    assert second == compose(["data.tile=32"], SOURCES)
    with pytest.raises(InputError):
        COMPOSER.config(["data.tile=0"])

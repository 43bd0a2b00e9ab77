"""Checks across fields, and that what they suggest helps."""

import json
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from hybrid_patch.config.checks import problems
from hybrid_patch.config.compose import compose
from hybrid_patch.config.schema import Config
from hybrid_patch.errors import InputError


def two_stages(coarse: int, first: int) -> str:
    """A curriculum of two halves: from `coarse` to `first`, then to 1."""
    stage = f"processing_patch_size:{coarse},share:.5,output_patch_size"
    return f"curriculum.stages=[{{{stage}:{first}}},{{{stage}:1}}]"


ADAPTER = TypeAdapter(Config)
DEFAULT = compose()
NO_LOSS = [f"loss.{term}.weight=0" for term in ("decoded", "visible", "context")]


@pytest.mark.sample(12)
@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (["data.tile=60"], "data.tile=60: not divisible by patch.processing_patch_size=8; try 56 or 64"),
        (
            ["patch=ps8", "curriculum=gradual"],
            "patch=8→8: curriculum=gradual goes from 8 to 1; ",
        ),
        (["data.tile=4"], "data.tile=4: not divisible by patch.processing_patch_size=8; try 8"),
        (["patch.output_patch_size=3"], "patch.output_patch_size=3: does not divide patch.processing_patch_size=8; "),
        (["patch.output_patch_size=16"], "patch.output_patch_size=16: larger than patch.processing_patch_size=8; "),
        (["curriculum.stages.0.share=.5"], "curriculum.stages: their shares add up to 0.5; "),
        ([two_stages(8, 3)], "curriculum.stages.0.output_patch_size=3: does not divide "),
        (["model.encoder.width=100"], "model.encoder.width=100: not divisible by 16 (the encodings); try 96 or 112"),
        (["model.decoder.heads=7"], "model.decoder.heads=7: does not divide model.decoder.width=128; try 1, 2"),
        (["loss.backend=flex"], "loss.backend=flex: does not run on runtime.device=cpu; try auto or chunked"),
        (["loss.backend=flash_cpu", "runtime=gpu"], "loss.backend=flash_cpu: does not run on runtime.device=cuda"),
        (
            ["runtime.accumulate=3"],
            "runtime.accumulate=3: does not divide the 8 samples of a process; try 1, 2, 4",
        ),
        (["masking=time", "data.timesteps=1"], "masking=time: needs timesteps to hide; "),
        (
            ["decoder.patch_size=output", "+upsampler@decoder.upsampler=learned"],
            "decoder.upsampler=learned: with decoder.patch_size=output nothing is upsampled; try null",
        ),
        (
            [
                "data.tile=60",
                "patch.processing_patch_size=12",
                "+upsampler@decoder.upsampler=learned",
                two_stages(12, 4),
            ],
            "decoder.upsampler=learned: made for the curriculum's largest ratio 12, it cannot do its ratio 3; ",
        ),
        (["masking.encode_ratio=0"], "masking.encode_ratio=0: the encoder would see nothing; "),
        (["masking.decode_ratio=.6"], "masking.decode_ratio=0.6: with masking.encode_ratio=0.5 more than all tokens; "),
        (["masking.decode_ratio=0"], "loss.decoded.weight=1: needs hidden tokens; "),
        (
            ["trainer.batch_size=1", "masking.views=2", "loss.instance.weight=0.1"],
            "trainer.batch_size=1: the instance loss needs other samples; ",
        ),
        (
            ["masking.band_dropout={landsat:0.2}"],
            "masking.band_dropout.landsat=0.2: not an input of the encoder; takes: sentinel2_l2a, ",
        ),
        (
            ["masking.band_dropout={srtm:0.2}"],
            "masking.band_dropout.srtm=0.2: none of its band sets has two bands; leave it out",
        ),
        (["masking.band_dropout={srtm:2.0}"], "masking.band_dropout.srtm=2.0: must be less than or equal to 1"),
        (["model.encoder.drop_path=1.0"], "model.encoder.drop_path=1.0: must be less than 1"),
        (
            ["model.encoder.drop_path=0.1", "init.freeze=[encoder]"],
            "model.encoder.drop_path=0.1: init.freeze=['encoder'] trains no encoder; try 0",
        ),
        (
            ["model=galileo_nano", "model.pixel_hidden_width=8"],
            "model.pixel_hidden_width=8: an option of model.architecture=flexivit; try null",
        ),
        (NO_LOSS, "loss.decoded.weight=0: no term of the loss has a weight; "),
        (["runtime.processes=2"], "runtime.strategy=single: cannot use runtime.processes=2; try ddp or fsdp"),
        (["runtime=ddp", "trainer.batch_size=7"], "trainer.batch_size=7: not divisible by runtime.processes=2; "),
        (["data.tile=256"], "data.tile=256: larger than data.scene_size=128; "),
        (["data.timesteps=13"], "data.timesteps=13: more than data.scene_timesteps=12; "),
        (["+modality@data.modalities.cdl=cdl"], "data.modalities.cdl: unknown modality; synthetic has: "),
        (["sweep_name=a/b"], "sweep_name=a/b: not a plain folder name; "),
        (["sweep_name=.."], "sweep_name=..: not a plain folder name; "),
        (["run_dir="], "run_dir=: empty; "),
        (["data=olmoearth", "data.root=/no/such"], "data.root=/no/such: there is no such folder; "),
        (["data=olmoearth", "data.root='/'"], "data.root='/': there is no such folder (the quotes are taken as part "),
        (["data=olmoearth", "data.root=/", "data.tile=256"], "data.tile=256: larger than an OlmoEarth sample; "),
        (["data=olmoearth", "data.root=/", "data.statistics=/no"], "data.statistics=/no: there is no such folder; "),
        (["data=rasters", "data.root=/", "data.labels=no/such"], "data.labels=no/such: there is no /no/such; "),
    ],
)
def test_what_does_not_go_together(overrides: list[str], start: str) -> None:
    with pytest.raises(InputError) as error:
        compose(overrides)
    assert str(error.value).startswith(start)
    assert "\n" not in str(error.value)


def test_a_file_is_no_data_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give the path of an existing folder"):
        compose(["data=rasters", f"data.root={tmp_path / 'file'}"])


def test_something_must_be_encoded() -> None:
    overrides = [f"data.modalities.{name}.decode_only=true" for name in ("sentinel2_l2a", "sentinel1", "srtm")]
    with pytest.raises(InputError, match="nothing to encode; declare one with decode_only: false"):
        compose(overrides)


def test_ratios_that_an_upsampler_cannot_do() -> None:
    twelve = ["data.tile=60", "patch.processing_patch_size=12"]
    ready = [*twelve, "upsampler=learned"]
    compose([*ready, two_stages(12, 3)])  # 12 is 2 x 2 x 3: it passes 4
    with pytest.raises(InputError, match="largest ratio 12, it cannot do its ratio 3; try the ratios 1, 2, 4 or 12"):
        compose([*ready, two_stages(12, 4)])
    compose([*twelve, "upsampler=subpixel", two_stages(12, 4)])


def test_the_instance_loss_needs_two_views() -> None:
    with pytest.raises(InputError, match=r"masking\.views=1: the instance loss compares two"):
        compose(["loss.instance.weight=0.1"])
    compose(["masking.views=2", "loss.instance.weight=0.1"])


def with_value(key: str, number: int) -> Config:
    """The default config with another number, whether or not it goes with the rest."""
    plain = json.loads(ADAPTER.dump_json(DEFAULT))
    *groups, name = key.split(".")
    node = plain
    for group in groups:
        node = node[group]
    node[name] = number
    if groups == ["patch"]:
        plain["curriculum"]["stages"][0][name] = number
    return ADAPTER.validate_json(json.dumps(plain))


@pytest.mark.parametrize("key", ["data.tile", "patch.output_patch_size", "model.encoder.width", "model.encoder.heads"])
@pytest.mark.parametrize("value", [3, 5, 7, 9, 20, 60, 100, 999])
def test_what_is_suggested_helps(key: str, value: int) -> None:
    # With a value suggested by a check, that check (told by what it says beside the number) has nothing left to say.
    def complaints(number: int) -> dict[str, str]:
        lines = [line for line in problems(with_value(key, number)) if line.startswith(f"{key}={number}: ")]
        return {line.split(": ")[1].partition("=")[0]: line.partition("; try ")[2] for line in lines}

    for complaint, suggested in complaints(value).items():
        for number in re.findall(r"\d+", suggested)[:2]:
            assert complaint not in complaints(int(number))

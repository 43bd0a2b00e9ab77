"""Each wrong input is one line that names the key and its value."""

import re

import pytest

from hybrid_patch.config.compose import compose
from hybrid_patch.errors import InputError


@pytest.mark.sample(16)
@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "upsampler.scal=3",
            "upsampler.scal=3: unknown key; guided takes: name, rank, random_features, deviation_radius, adapter, *",
        ),
        ("+optimizer.lrr=3", "optimizer.lrr=3: unknown key; adamw takes: name, lr, * (did you mean lr?)"),
        ("sed=3", "sed=3: unknown key; the config takes: seed, * (did you mean seed?)"),
        ("foo.bar.baz=3", 'foo={"bar": {"baz": 3}}: unknown key; *'),
        ("seed=1.5", "seed=1.5: must be a whole number"),
        ("seed=one", "seed=one: must be a whole number"),
        ("seed=true", "seed=true: must be a whole number"),
        ("seed='1'", "seed=1: must be a whole number"),
        ("seed=-1", "seed=-1: must be greater than or equal to 0"),
        ("seed=4294967296", "seed=4294967296: must be less than 4294967296"),
        ("seed=null", "seed=null: must be a whole number"),
        ("seed=", "seed=: must be a whole number"),
        ("seed=[1]", "seed=[1]: must be a whole number"),
        ("sweep_name=3", "sweep_name=3: must be text; write sweep_name=*"),
        ("optimizer.lr=inf", "optimizer.lr=Infinity: must be a finite number"),
        ("optimizer.lr=nan", "optimizer.lr=NaN: must be a finite number"),
        ("optimizer.lr=0", "optimizer.lr=0: must be greater than 0"),
        ("optimizer.beta2=1", "optimizer.beta2=1: must be less than 1"),
        ("optimizer.lr.x=3", 'optimizer.lr={"x": 3}: must be a number'),
        ("runtime.device=gpu", "runtime.device=gpu: must be 'auto', 'cpu' or 'cuda'"),
        ("runtime.gradient_checkpointing=1", "runtime.gradient_checkpointing=1: must be true or false"),
        ("logger.tags=a", "logger.tags=a: must be a list, like [a,b]"),
        ("model.encoder=3", "model.encoder=3: must be a group of values; *"),
        (
            "upsampler.name=learned",
            "upsampler.width: missing; give upsampler.width=<value>; upsampler.rank=32: unknown key; *",
        ),
        ("upsampler.name=linear", "upsampler.name=linear: no such option; takes: bilinear, guided, learned*"),
        ("~upsampler", "upsampler: missing; give one of: bilinear, guided, learned, nearest, subpixel, transposed"),
        ("~optimizer.lr", "optimizer.lr: missing; give optimizer.lr=<value>"),
        ("~surely_not", "~surely_not: *does not exist*"),
        ("+upsampler@decoder.upsampler=guided", "decoder.upsampler=guided: needs pixels, and predictions *"),
        ("upsampler@decoder.upsampler=learned", "upsampler@decoder.upsampler=learned: *+upsampler@decoder.upsampler=*"),
        ("patch=8", "patch=8: no such option; takes: hybrid, hybrid_4to1, *"),
        ("patch=null", "patch=null: no such option; takes: hybrid, hybrid_4to1, *"),
        (
            "upsampler={name:bilinear}",
            'upsampler={"name": "bilinear"}: no such option; takes: bilinear, guided, learned, nearest, *',
        ),
        ("upsampler=../model/nano", "upsampler.name=nano: no such option; *"),
        ("modality=landsat", "modality=landsat: say where it goes: +modality@data.modalities.landsat=landsat"),
        ("upsampler@x=learned", "upsampler@x=learned: *"),
        ("no/such=group", "no/such=group: *"),
        ("data=rasters", "data.root: missing; give data.root=<value>"),
        ("data.root=x", "data.root=x: unknown key; synthetic takes: *"),
        ("seed", "seed: not key=value *"),
        ("seed=[", "seed=[: not key=value *"),
        ("seed=${", "seed=${: not key=value *"),
        ("a b=c", "a b=c: not key=value *"),
        ("=3", "=3: no key before the =; write key=value"),
        ("", ": not key=value *"),
        ("seed=1,2", "seed=1,2: several values are a sweep, which needs -m; a list is written [a,b]"),
        ("patch=ps8,ps1", "patch=ps8,ps1: several values are a sweep, which needs -m; *"),
        ("seed=range(1,3)", "seed=range(1,3): several values are a sweep, *"),
        ("seed=${no_such}", "seed=${no_such}: Interpolation key 'no_such' not found; *"),
        ("seed=${no:such}", "seed=${no:such}: Unsupported interpolation type no; *"),
        ("seed=${seed}", "seed=${seed}: Recursive interpolation *"),
        ("curriculum.stages.7.share=1", "curriculum.stages.7.share=1: *out of range*"),
        ("hydra.surely_not=3", "hydra.surely_not=3: *"),
        ("data.modalities.srtm=3", "data.modalities.srtm=3: must be a group of values; *"),
        ("data.modalities.srtm.band_sets=[]", "data.modalities.srtm.band_sets=[]: *"),
        ("data.modalities.srtm.bands=[a]", "data.modalities.srtm: band_sets ['srtm'] must hold each of the bands *"),
    ],
)
def test_one_line_per_wrong_input(override: str, line: str) -> None:
    with pytest.raises(InputError) as error:
        compose([override])
    message = str(error.value)
    assert "\n" not in message
    start, *rest = line.split("*")
    assert message.startswith(start)
    for part in rest:
        assert part in message
    if not rest:
        assert message == line


def test_several_faults_are_one_line_that_names_the_first_and_counts_the_others() -> None:
    faults = [f"optimizer.{key}=x" for key in ("lr", "beta1", "beta2", "weight_decay", "warmup", "clip_norm")]
    named = "; ".join(f"{fault}: must be a number" for fault in faults[:4])
    with pytest.raises(InputError, match=rf"^{re.escape(named)} \(and 2 more\)$"):
        compose(faults)


@pytest.mark.parametrize("good", ["optimizer.lr=1", "trainer.steps=1_000", "optimizer.lr=1e-4", "seed=4294967295"])
def test_numbers_in_their_usual_spellings(good: str) -> None:
    compose([good])

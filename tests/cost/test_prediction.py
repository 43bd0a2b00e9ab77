"""Predictions: parameters and memory of the real thing, growth with the batch, stages, equal shapes."""

import dataclasses

import pytest
from building import MODALITIES, small
from check_memory import measured_peak

from hybrid_patch.config.continue_options import ContinueFrom
from hybrid_patch.config.curriculum import all_sizes
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.devices import TABLE, THIS, Device, device_named
from hybrid_patch.cost.parallelism import gathered_bytes
from hybrid_patch.cost.predict import Prediction, Stage, predict, stage_cost
from hybrid_patch.cost.recorder import CLASSES
from hybrid_patch.errors import InputError
from hybrid_patch.train.step import TrainingModule

DEVICE = Device("slow", 2.0**30, 1e9, 2e9, 1e9, "made up")
TWO_STAGES = (
    "curriculum.stages=[{processing_patch_size:8,output_patch_size:8,share:0.75},"
    "{processing_patch_size:4,output_patch_size:1,share:0.25}]"
)


def predicted(*overrides: str, growth: bool = False) -> Prediction:
    return predict(small(*overrides), growth)


@pytest.mark.full
@pytest.mark.parametrize("overrides", [[], ["upsampler=learned", "loss.visible.weight=0", "loss.instance.weight=0"]])
def test_parameters_are_those_that_are_trained(overrides: list[str]) -> None:
    config = small(*overrides)
    module = TrainingModule(config, config.data.modalities)
    prediction = predict(config)
    assert prediction.parameters == sum(p.numel() for p in module.parameters() if p.requires_grad)
    upsampler = sum(p.numel() for p in module.model.encoder_upsampler.parameters() if p.requires_grad)
    assert prediction.parameters_of["encoder_upsampler"] == upsampler


@pytest.mark.full
@pytest.mark.parametrize("overrides", [["patch=ps8"], ["patch=hybrid", "upsampler=subpixel"], ["patch=ps1"]])
def test_memory_is_what_torch_allocates(overrides: list[str]) -> None:
    config = small("runtime.device=cpu", "runtime.threads=1", *overrides)
    assert predict(config).peak() == pytest.approx(measured_peak(config), rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("patch", ["ps8", "hybrid", "ps1"])
@pytest.mark.parametrize("model", ["nano", "tiny"])
def test_memory_of_whole_models(model: str, patch: str) -> None:
    from hybrid_patch.config.compose import compose

    config = compose(
        [f"model={model}", f"patch={patch}", "logger=none", "data.tile=32", "data.timesteps=1", "trainer.batch_size=2"]
    )
    assert predict(config).peak() == pytest.approx(measured_peak(config), rel=0.15)


@pytest.mark.full
def test_memory_by_class() -> None:
    prediction = predicted("patch=ps1")
    memory, cost = prediction.memory(), prediction.worst
    assert list(memory) == list(CLASSES)
    assert memory["parameters"] >= 4 * prediction.parameters
    assert 8 * prediction.parameters <= memory["optimizer"] < 9 * prediction.parameters  # two moments, a count each
    assert cost.record.dominant().startswith("activations")
    assert sum(cost.record.part_memory.values()) == memory["activations"] + memory["temporary"]


@pytest.mark.full
def test_gradients_are_seen_where_they_are_at_the_peak() -> None:
    big = "model.encoder={width:512,depth:4,heads:4,mlp_ratio:4.0}"
    prediction = predicted("patch=ps8", big, "trainer.batch_size=2")
    assert prediction.memory()["gradients"] > 3 * prediction.parameters


@pytest.mark.full
def test_several_processes_hold_copies_of_gradients() -> None:
    single = predicted("trainer.batch_size=2")
    double = predicted("trainer.batch_size=4", "runtime=ddp")
    assert double.memory()["gradients"] - single.memory()["gradients"] == 4 * single.parameters
    assert double.flops()["forward"]["encoder"] == 2 * single.flops()["forward"]["encoder"]
    assert double.hours(DEVICE) == pytest.approx(2 * single.hours(DEVICE))
    begun = ContinueFrom(run="run", step=single.config.trainer.steps // 4, samples=1, checkpoint="")
    rest = dataclasses.replace(single, config=dataclasses.replace(single.config, continue_from=begun))
    assert rest.hours(DEVICE) == pytest.approx(0.75 * single.hours(DEVICE))


@pytest.mark.full
def test_sharded_weights_leave_room_for_samples() -> None:
    deep = ("model.encoder={width:64,depth:8,heads:4,mlp_ratio:4.0}", "trainer.batch_size=8")
    four = ("runtime.processes=4", "runtime.device=cpu")
    copied, parts = (predicted(*deep, f"runtime={name}", *four, growth=True) for name in ("ddp", "fsdp"))
    alone, whole = parts.worst.record.memory, gathered_bytes(parts.config, parts.parameters)
    assert 2 * 4 * 64**2 * 12 < whole < 4 * parts.parameters / 2
    memory = parts.memory()
    assert memory["optimizer"] == alone["optimizer"] // 4
    assert memory["parameters"] - alone["parameters"] == whole - 3 * parts.parameters
    assert parts.peak() < copied.peak()
    assert parts.largest_batch(30e6) > copied.largest_batch(30e6)
    most = parts.largest_batch(30e6)
    assert predicted(*deep, "runtime=fsdp", *four, f"trainer.batch_size={most}").peak() <= 30e6


@pytest.mark.full
def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    memory, one_each = 30_000_000, "loss.context.max_keys=1"
    prediction = predicted(one_each, growth=True)
    most = prediction.largest_batch(memory)
    peaks = [predicted(one_each, f"trainer.batch_size={samples}").peak() for samples in (most, most + 1)]
    assert peaks[0] <= memory < peaks[1]
    assert prediction.largest_batch(1e5) == 0


@pytest.mark.full
def test_keys_that_many_samples_share_leave_room() -> None:
    """The context term has fewer keys of each sample in a larger batch, so that memory grows less than in a line."""
    most = predicted(growth=True).largest_batch(30e6)
    assert 0.8 * 30e6 < predicted(f"trainer.batch_size={most}").peak() <= 30e6


@pytest.mark.full
def test_a_loss_in_chunks_still_has_a_batch_that_fits() -> None:
    chunked = ("loss.backend=chunked", "loss.chunk=1000000")
    most = predicted(*chunked, growth=True).largest_batch(30e6)
    assert 0.5 * 30e6 < predicted(*chunked, f"trainer.batch_size={most}").peak() <= 30e6


@pytest.mark.full
def test_the_worst_stage_counts_for_memory_and_shares_for_time() -> None:
    both = predicted(TWO_STAGES, growth=True)
    coarse, fine = both.costs
    assert fine.record.peak > coarse.record.peak
    assert both.peak() == fine.record.peak
    expected = 0.75 * coarse.record.seconds(DEVICE) + 0.25 * fine.record.seconds(DEVICE)
    assert both.seconds(DEVICE) == pytest.approx(expected)
    assert both.flops()["backward"]["decoder"] == pytest.approx(
        0.75 * coarse.record.flops["backward"]["decoder"] + 0.25 * fine.record.flops["backward"]["decoder"]
    )
    assert both.largest_batch(50e6) == fine.largest_batch(50e6)


def test_the_roofline_is_no_faster_than_either_peak() -> None:
    cost = predicted("patch=ps8").worst
    flops = sum(sum(parts.values()) for parts in cost.record.flops.values())
    assert cost.record.seconds(DEVICE) >= flops / DEVICE.fp32
    assert cost.record.seconds(DEVICE) >= float(cost.record.work[:, 1] @ cost.record.repeats) / DEVICE.bandwidth


def stage_of(config: Config) -> Stage:
    return Stage(config, MODALITIES, all_sizes(config.curriculum)[0])


def keyed(config: Config) -> str:
    return stage_of(config).key


SAME = ["seed=3", "optimizer.lr=0.1", "trainer.steps=7", "loss.decoded.temperature=0.5", "data.scenes=3",
        "loss.visible.weight=0.3", "sweep_name=x", "runtime.workers=2"]  # fmt: skip
OTHER = ["data.tile=32", "data.timesteps=1", "trainer.batch_size=2", "upsampler=subpixel", "masking.views=1",
         "loss.visible.weight=0", "model.encoder.depth=3", "loss.max_queries=4", "runtime.precision=bf16-mixed",
         "patch=ps1", "masking.encode_ratio=0.25", "loss.merge_duplicates=true"]  # fmt: skip


@pytest.mark.parametrize("override", SAME)
def test_what_changes_no_shape(override: str) -> None:
    assert keyed(small(override)) == keyed(small())


@pytest.mark.sample(4)
@pytest.mark.parametrize("override", OTHER)
def test_what_changes_shapes(override: str) -> None:
    extra = ["loss.instance.weight=0"] if override.startswith("masking.views") else []
    assert keyed(small(override, *extra)) != keyed(small())


@pytest.mark.full
def test_modalities_change_shapes() -> None:
    config = small()
    stage = stage_of(config)
    fewer = dataclasses.replace(stage, modalities={"optical": MODALITIES["optical"]})
    assert fewer.key != stage.key
    assert stage_cost(fewer, growth=False).tokens.decoder < stage_cost(stage, growth=False).tokens.decoder


def test_devices() -> None:
    for name in ("h100-80gb", "h200", "a100-40gb", "a100-80gb", "l40s"):
        device = device_named(name)
        assert device.bf16 > device.fp32 > 1e12
        assert device.bandwidth > 1e11
        assert device.source
    assert TABLE.is_file()
    with pytest.raises(InputError, match=f"device=h10: unknown device; takes: h100-80gb, .*{THIS}"):
        device_named("h10")


@pytest.mark.full
def test_this_machine_is_measured() -> None:
    device = device_named(THIS)
    assert device.memory > 2**28
    assert device.fp32 > 1e8
    assert device.bandwidth > 1e8

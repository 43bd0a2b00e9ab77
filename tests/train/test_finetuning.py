"""Fine-tuning: the same training with the labels as its target."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from building import TINY, trained_run
from resumed_runs import same

import hybrid_patch
from hybrid_patch.config.compose import compose, frozen_config
from hybrid_patch.config.options import parse
from hybrid_patch.data.source import Window, open_source
from hybrid_patch.errors import InputError
from hybrid_patch.export.write_export import write_export
from hybrid_patch.finetune import FinetuneOptions, finetune_words
from hybrid_patch.runs.checkpoint_files import list_checkpoints
from hybrid_patch.runs.checkpoints import newest_checkpoint
from hybrid_patch.train import step
from hybrid_patch.train.attempt import train

QUICK = (*TINY, "~data.modalities.sentinel1", "data.timesteps=1", "upsampler.rank=4", "upsampler.random_features=8")
TUNED = ("logger=none", "evaluation=none", "trainer.batch_size=2", "runtime.threads=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run."""
    return trained_run(tmp_path_factory.mktemp("before") / "run", *QUICK)


@pytest.fixture(autouse=True)
def few_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics of a few crops are enough here."""
    monkeypatch.setattr(step, "FITTED_CROPS", 6)


def finetuned(folder: Path, *words: str) -> Path:
    options = parse(FinetuneOptions, [*words, *TUNED, f"run_dir={folder}"])
    assert train(compose(finetune_words(options))) == 0
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("step_seconds", "data_seconds", "peak_memory_bytes", "evaluation_seconds")
    return [{name: value for name, value in row.items() if name not in timed} for row in lines]


def state(folder: Path) -> Any:
    checkpoint = newest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    return checkpoint.state


@pytest.fixture(scope="module")
def tuned(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head on the frozen run."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    return finetuned(folder, f"run={run}", "freeze=all", "steps=4", "head=conv", "target.fraction=0.5")


def test_a_frozen_run_is_left_as_it_was_but_for_the_head(run: Path, tuned: Path) -> None:
    before, after = state(run)["model"], state(tuned)["model"]
    same_parts = ("encoder.", "encoder_upsampler.")
    changed = [name for name, x in after.items() if name.startswith(same_parts) and not torch.equal(before[name], x)]
    assert not changed
    assert {name.partition(".")[0] for name in after} - {name.partition(".")[0] for name in before} == {"head"}
    assert state(tuned)["classes"] == list(open_source(frozen_config(run).data).class_names())


@pytest.mark.full
def test_the_whole_network_learns_more_than_a_constant_answer(run: Path, tmp_path: Path) -> None:
    words = ("data.scenes=16", "target.validate_every=10", "target.patience=null", "optimizer.lr=0.003")
    tuned = finetuned(tmp_path / "tuned", f"run={run}", "steps=40", *words)
    best = max((row for row in rows(tuned) if "validation_miou" in row), key=lambda row: row["validation_miou"])
    source = open_source(frozen_config(tuned).data)
    window, date = Window(0, 0, 32, 32), np.arange(1)
    each = (source.read(index, window, date).labels for index in source.indices("val").tolist())
    labels = np.stack([x for x in each if x is not None])
    shares = np.bincount(labels.ravel()) / labels.size
    constant = shares.max() / (shares > 0).sum()
    assert best["validation_miou"] > 1.5 * constant
    encoders = [state(folder)["model"]["encoder.transformer.norm.weight"] for folder in (run, tuned)]
    assert not torch.equal(*encoders)


@pytest.mark.sample(1)
@pytest.mark.parametrize("better_before", [False, True])
def test_a_fine_tuning_goes_on(tuned: Path, tmp_path: Path, better_before: bool) -> None:
    """From the newest weights; better ones that are not these have stayed in the other run."""
    shutil.copytree(tuned, before := tmp_path / "before")
    (number, path), *_ = list_checkpoints(before / "checkpoints")
    if better_before:
        torch.save({**state(before), "best": {"score": 1.0, "step": number - 1, "scored": number}}, path)
    words = [f"continue_from={before}", f"trainer.steps={number + 2}", f"run_dir={tmp_path / 'run'}"]
    assert train(compose(words)) == 0
    after = state(tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, number + 3))
    assert after["classes"] == state(tuned)["classes"]
    assert after["best"]["step"] == (number + 2 if better_before else max(number, after["best"]["step"]))
    with pytest.raises(InputError, match="head=linear: another head than that of continue_from="):
        compose([*words, "head=linear"])


@pytest.mark.full
def test_numbers_are_predicted_in_their_unit(run: Path, tmp_path: Path) -> None:
    words = ("data.label_kind=numbers", "data.scenes=16", "target.validate_every=10", "target.patience=null")
    tuned = finetuned(tmp_path / "tuned", f"run={run}", "steps=40", "head=linear", "optimizer.lr=0.003", *words)
    best = max(row["validation_r2"] for row in rows(tuned) if "validation_r2" in row)
    assert best > 0  # of a constant answer
    assert np.mean([row["squared_error"] for row in rows(tuned)[-10:]]) < 0.8  # of a constant answer: 1
    model = hybrid_patch.load(tuned, "cpu")
    assert model.classes == ()
    source = open_source(model.config.data)
    sample = source.read(int(source.indices("train")[0]), Window(0, 0, 32, 32), np.arange(1))
    dates = ["2020-07-01"]
    images = {name: np.where(sample.valid[name][..., None], x, np.nan) for name, x in sample.images.items()}
    predicted = model.predict(images, dates)
    assert predicted.shape == (32, 32, 1)
    assert sample.numbers is not None
    assert np.nanstd(predicted) > 0.5  # metres, not standard deviations
    assert abs(np.nanmean(predicted) - sample.numbers.mean()) < 10


@pytest.mark.full
def test_the_best_weights_are_those_of_the_finished_run(run: Path, tmp_path: Path) -> None:
    words = ("target.validate_every=2", "target.patience=2", "optimizer.lr=0.05", "optimizer.warmup=0.0")
    tuned = finetuned(tmp_path / "tuned", f"run={run}", "steps=40", *words, "trainer.checkpoint_every=3")
    scored = {row["step"]: row["validation_miou"] for row in rows(tuned) if "validation_miou" in row}
    last = max(scored)
    best = max(scored, key=lambda step: (scored[step], -step))
    assert last == len(rows(tuned)) < 40
    assert last - best == 4
    assert [step for step, _ in list_checkpoints(tuned / "checkpoints")][-1] == best
    assert state(tuned)["best"]["step"] == best
    assert json.loads((tuned / "status.json").read_text())["state"] == "done"
    assert train(frozen_config(tuned)) == 0
    assert len(rows(tuned)) == last


@pytest.mark.full
def test_gone_on_with_is_the_same_to_the_last_bit(run: Path, tmp_path: Path) -> None:
    words = (f"run={run}", "steps=10", "target.validate_every=2", "target.patience=2", "optimizer.lr=0.02")
    every = ("trainer.checkpoint_every=1", "trainer.keep_checkpoints=99")
    whole = finetuned(tmp_path / "whole", *words)
    parted = finetuned(tmp_path / "parted", *words, *every)
    best = state(whole)["best"]["step"]
    for newest in (best, best - 1):  # its validation is done, or still to come
        for number, path in list_checkpoints(parted / "checkpoints"):
            if number > newest:
                path.unlink()
        (parted / "status.json").unlink()
        assert train(frozen_config(parted)) == 0
        assert rows(whole) == rows(parted)
        assert same(state(whole), state(parted))


def test_an_exported_model_predicts_as_its_run(tuned: Path, tmp_path: Path) -> None:
    write_export(tuned, tmp_path / "model", "MIT")
    image = np.random.default_rng(0).random((24, 20, 2, 12)) * 3000
    image[3, 4] = np.nan
    images, dates = {"sentinel2_l2a": image}, ["2024-05-31", "2024-07-01"]
    models = [hybrid_patch.load(folder, "cpu") for folder in (tuned, tmp_path / "model")]
    first, second = (model.predict(images, dates) for model in models)
    assert np.array_equal(first, second, equal_nan=True)
    assert models[1].classes == tuple(state(tuned)["classes"])
    assert first.shape == (24, 20, len(models[0].classes))
    assert np.isnan(first[3, 4]).all()
    assert np.allclose(np.delete(first.reshape(-1, first.shape[-1]), 3 * 20 + 4, 0).sum(-1), 1, atol=1e-5)
    again = finetuned(tmp_path / "again", f"run={tmp_path / 'model'}", "steps=1")
    assert state(again)["classes"] == state(tuned)["classes"]


def test_the_module_of_torch_predicts_with_gradients(run: Path, tuned: Path) -> None:
    encoder = hybrid_patch.PixelEncoder.load(tuned, "cpu")
    images = {"sentinel2_l2a": (torch.rand(2, 1, 12, 16, 16) * 3000).requires_grad_()}
    predicted = encoder.predict(images, ["2024-05-31"])
    assert predicted.shape == (2, len(encoder.classes), 16, 16)
    predicted[:, 0].sum().backward()
    assert images["sentinel2_l2a"].grad is not None
    model = hybrid_patch.load(tuned, "cpu")
    whole = model.predict(
        {"sentinel2_l2a": images["sentinel2_l2a"][0].detach().permute(2, 3, 0, 1).numpy()}, ["2024-05-31"]
    )
    assert np.allclose(predicted[0].detach().permute(1, 2, 0).numpy(), whole, atol=1e-5)
    with pytest.raises(InputError, match="predict: the model has no head; hybrid-patch finetune trains one"):
        hybrid_patch.PixelEncoder.load(run, "cpu").predict(images, ["2024-05-31"])


def test_sensors_that_the_labels_come_without_are_left_out(run: Path, tmp_path: Path) -> None:
    tuned = finetuned(tmp_path / "tuned", f"run={run}", "steps=1", "freeze=all", "~data.modalities.srtm")
    before, after = state(run)["model"], state(tuned)["model"]
    kept_parts = [name for name in after if name.startswith(("encoder.", "encoder_upsampler."))]
    assert not any("srtm" in name for name in kept_parts)
    assert all(torch.equal(after[name], before[name]) for name in kept_parts)


def test_a_run_with_a_curriculum_is_tuned_at_its_last_patch_sizes(tmp_path: Path) -> None:
    words = (*TINY, "~data.modalities.sentinel1", "curriculum=gradual", "upsampler=learned")
    before = trained_run(tmp_path / "run", *words, steps=4)
    tuned = finetuned(tmp_path / "tuned", f"run={before}", "steps=2", "freeze=all")
    assert {row["output_patch_size"] for row in rows(tuned)} == {1}
    a, b = (state(folder)["model"] for folder in (before, tuned))
    assert all(torch.equal(a[name], b[name]) for name in b if name.startswith("encoder_upsampler."))


@pytest.mark.full
def test_the_command_is_overrides_of_a_training(run: Path) -> None:
    words = ["head=linear,conv", "freeze=encoder,all", "fraction=0.05,1.0", "steps=7", "seed=0,1"]
    said = finetune_words(parse(FinetuneOptions, [f"run={run}", *words, "-m"]))
    expected = {
        "experiment=finetune",
        f"init.from={run}",
        "head=linear,conv",
        "init.freeze=[encoder],[encoder,upsampler]",
        "target.fraction=0.05,1.0",
        "trainer.steps=7",
        "seed=0,1",
        "upsampler.pixel_dropout=0.0",
    }
    assert expected <= set(said)
    config = compose(finetune_words(parse(FinetuneOptions, [f"run={run}", "logger=none"])))
    before = frozen_config(run)
    assert (config.model, config.data, config.patch) == (before.model, before.data, before.patch)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["target=labels"], "masking.encode_ratio=0.5, views=1: target=labels hides nothing; try masking=none"),
        (["head=linear"], "head=linear: only labels are predicted by a head; try target=labels, or head=none"),
        (["experiment=finetune", "head=none"], "head=none: target=labels needs one; try linear or conv"),
        (["experiment=finetune", "loss=default"], "loss.decoded.weight=1: target=labels has a loss of its own"),
        (["experiment=finetune", "head=dense"], "head=dense: no such option; takes: conv, linear, none"),
        (["experiment=finetune", "target.fraction=0"], "target.fraction=0: must be greater than 0"),
    ],
)
def test_what_does_not_go_together_is_one_line(words: list[str], line: str) -> None:
    with pytest.raises(InputError) as error:
        compose([*TINY, *words])
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_no_such_run_and_no_such_part_are_one_line(run: Path, tmp_path: Path) -> None:
    for words, line in (
        ([f"run={tmp_path}"], "not a run directory"),
        ([f"run={run}", "freeze=head"], "freeze=head: must be one of none, encoder, all"),
    ):
        with pytest.raises(InputError, match=line):
            finetune_words(parse(FinetuneOptions, words))

"""A term of the loss is a class: the example of docs/extending.md, as it is printed there."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from building import MODALITIES, make_batch, query_sampling_for, remade, small

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.loss import objective
from hybrid_patch.train.optimizer import build_optimizer
from hybrid_patch.train.step import TrainingModule, TrainingStep

PAGE = Path(__file__).parents[2] / "docs/extending.md"
SIZES = PatchSizes(8, 1)


def example() -> type:
    section = PAGE.read_text().partition("\n## A term of the loss\n")[2].partition("\n## ")[0]
    block = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert block is not None
    scope: dict[str, type] = {}
    exec(block[1], scope)
    return scope["Brightness"]


def one_step(microbatches: int) -> tuple[dict[str, torch.Tensor], TrainingModule]:
    config = small("patch=hybrid", "upsampler=learned", "loss.max_queries=20")
    object.__setattr__(config.loss, "brightness", SimpleNamespace(weight=0.5))
    torch.manual_seed(0)
    module = TrainingModule(config, MODALITIES)
    step = TrainingStep(module, build_optimizer(module, config.optimizer), 1.0, microbatches)
    batch = remade(make_batch(8, missing=0.2, samples=4), query_sampling=query_sampling_for(64, most=20))
    return step.run(batch, SIZES), module


def test_a_new_term_is_trained_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "TERMS", (*objective.TERMS, example()))
    values, module = one_step(1)
    total = values["decoded"] + values["visible"] + values["context"]
    total = total + 0.1 * values["instance"] + 0.5 * values["brightness"]
    torch.testing.assert_close(values["loss"], total)
    assert "objective.terms.brightness.head.weight" in module.state_dict()
    in_microbatches, _ = one_step(2)
    for name, value in values.items():
        torch.testing.assert_close(in_microbatches[name], value, rtol=1e-4, atol=1e-6)


def test_the_other_terms_start_as_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    before = TrainingModule(small("patch=hybrid", "upsampler=learned"), MODALITIES).state_dict()
    monkeypatch.setattr(objective, "TERMS", (*objective.TERMS, example()))
    config = small("patch=hybrid", "upsampler=learned")
    object.__setattr__(config.loss, "brightness", SimpleNamespace(weight=0.5))
    torch.manual_seed(0)
    after = TrainingModule(config, MODALITIES).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())

"""The loss of labels, and the heads, against plain references."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from building import MODALITIES, inputs, make_batch, remade, small
from einops import rearrange
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes, sizes_at
from hybrid_patch.config.schema import Config
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.masking import Mask
from hybrid_patch.model.head import Linear
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.pooling import mean
from hybrid_patch.train.optimizer import build_optimizer
from hybrid_patch.train.step import TrainingModule, TrainingStep

CLASSES = ("water", "forest", "field")
SUPERVISED = ("target=labels", "masking=none", "loss=none", "masking.views=1", "loss.instance.weight=0")


def config_of(*words: str) -> Config:
    return small(*SUPERVISED, *words)


def labelled(patch_size: int, labels: Tensor, missing: float = 0.0) -> Batch:
    """A batch of one view in which all is encoded, with labels of pixels."""
    batch = make_batch(patch_size, samples=len(labels), missing=missing)
    masks = {}
    for name, mask in batch.masks.items():
        valid_mask = mask[:: batch.views] != Mask.MISSING
        value = Mask.ENCODE if name in inputs(MODALITIES) else Mask.TARGET_ONLY
        masks[name] = torch.where(valid_mask, int(value), int(Mask.MISSING)).to(torch.int8)
    return dataclasses.replace(remade(batch, masks=masks), labels=labels)


def some_labels(samples: int = 2, seed: int = 0) -> Tensor:
    """A third of the pixels has none."""
    return torch.randint(-1, 3, (samples, 16, 16), generator=torch.Generator().manual_seed(seed))


def fitted(module: TrainingModule) -> TrainingModule:
    """The head's statistics, as of some data."""
    head = module.model.head
    assert head is not None
    width = len(head.embedding_mean)
    head.fit_embeddings([3 * torch.randn(50, width) + 1 for _ in range(3)])
    head.fit_numbers([torch.tensor([2.0, 4.0, 9.0])])
    return module


def dense_embeddings(module: TrainingModule, batch: Batch, sizes: PatchSizes) -> Tensor:
    """The mean of all dense tokens of a pixel, written out."""
    total, count = torch.zeros(()), torch.zeros(())
    for fine in module.model.fine_tokens(batch, sizes):
        h, w = fine.mask.shape[1:3]
        mask = fine.mask.flatten(1, 2).flatten(2)  # [B, hw, TS]
        dense = fine.tokens.dense().unflatten(1, (h * w, -1))
        pixels = torch.where(mask[..., None, None], dense, 0).sum(2)
        total = total + rearrange(pixels, "b (h w) (i j) d -> b (h i) (w j) d", h=h, i=sizes.factor)
        count = count + repeat_cells(fine.mask.flatten(3).sum(-1), sizes.factor)
    return total / count[..., None].clamp(min=1)


@pytest.mark.parametrize("patch", ["hybrid", "ps8", "ps1"])
@pytest.mark.parametrize("upsampler", ["guided", "learned", "transposed"])
def test_the_factored_logits_are_those_of_dense_embeddings(patch: str, upsampler: str) -> None:
    config = config_of("head=linear", f"patch={patch}", f"upsampler={upsampler}")
    torch.manual_seed(0)
    module, sizes = fitted(TrainingModule(config, MODALITIES, CLASSES)), sizes_at(config, 0)
    head, batch = module.model.head, labelled(sizes.processing, some_labels(), missing=0.2)
    assert head is not None
    tokens = module.model.fine_tokens(batch, sizes)
    embeddings = dense_embeddings(module, batch, sizes)
    torch.testing.assert_close(mean(tokens, None), embeddings, rtol=1e-4, atol=1e-5)
    standardised = (embeddings - head.embedding_mean) / head.embedding_scale
    assert isinstance(head, Linear)
    expected = standardised @ head.output.weight.mT + head.output.bias
    has_label = embeddings.abs().sum(-1) > 0
    torch.testing.assert_close(head(tokens)[has_label], expected[has_label], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", ["linear", "conv"])
@pytest.mark.parametrize("patch", ["hybrid", "ps8"])
def test_the_loss_is_torchs_cross_entropy_of_labelled_pixels(head: str, patch: str) -> None:
    config = config_of(f"head={head}", f"patch={patch}")
    torch.manual_seed(0)
    module, sizes = fitted(TrainingModule(config, MODALITIES, CLASSES)), sizes_at(config, 0)
    batch = labelled(8, some_labels())
    probabilities = module.model.predictions(batch, sizes)
    assert batch.labels is not None
    expected = F.nll_loss(probabilities.log().flatten(0, 2), batch.labels.flatten(), ignore_index=-1)
    terms = module(batch, sizes)
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-4, atol=1e-5)
    assert terms.keys() == {"loss", "cross_entropy"}


def test_numbers_are_compared_in_standard_deviations_and_predicted_in_their_unit() -> None:
    config = config_of("head=linear", "patch=hybrid")
    torch.manual_seed(0)
    module, sizes = fitted(TrainingModule(config, MODALITIES)), sizes_at(config, 0)
    numbers = torch.rand(2, 16, 16) * 9
    numbers[torch.rand(numbers.shape) < 0.3] = torch.nan
    batch = labelled(8, numbers)
    predicted = module.model.predictions(batch, sizes)[..., 0]
    deviation = torch.tensor([2.0, 4.0, 9.0]).std(correction=0)
    has_label = numbers.isfinite()
    expected = ((predicted - numbers)[has_label] / deviation).square().mean()
    loss = module(batch, sizes)["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    loss.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in module.parameters())


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_pixels_without_a_label_change_nothing(head: str) -> None:
    config = config_of(f"head={head}", "patch=hybrid")
    torch.manual_seed(0)
    module, sizes = TrainingModule(config, MODALITIES, CLASSES), sizes_at(config, 0)
    none = torch.full((2, 16, 16), -1)
    loss = module(labelled(8, none), sizes)["loss"]
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not bool(p.grad.any()) for p in module.parameters())


def test_microbatches_have_the_loss_and_the_gradients_of_the_batch() -> None:
    config = config_of("head=conv", "patch=hybrid", "trainer.batch_size=4")
    labels = some_labels(4)
    labels[0] = -1
    labels[1, :8] = -1
    gradients, losses = [], []
    for parts in (1, 2, 4):
        torch.manual_seed(0)
        module = TrainingModule(config, MODALITIES, CLASSES)
        step = TrainingStep(module, build_optimizer(module, config.optimizer), 1.0, parts)
        losses.append(step.backpropagate(labelled(8, labels), sizes_at(config, 0))["loss"])
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(loss, losses[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-5)


def test_a_head_changes_no_other_weight_and_trains_no_decoder() -> None:
    words = ("patch=hybrid", "upsampler=guided")
    made = []
    for more in ((), ("target=labels", "head=conv", *SUPERVISED[1:])):
        torch.manual_seed(0)
        made.append(TrainingModule(small(*words, *more), MODALITIES, CLASSES))
    without, with_head = made
    for name, tensor in without.model.state_dict().items():
        assert torch.equal(tensor, with_head.model.state_dict()[name]), name
    counts = with_head.parameter_counts()
    assert with_head.model.head is not None
    assert counts["heads"] == sum(p.numel() for p in with_head.model.head.parameters())
    assert counts["decoder"] == counts["decoder_upsampler"] == 0


def test_statistics_of_the_head_are_those_of_all_parts() -> None:
    torch.manual_seed(0)
    module = TrainingModule(config_of("head=linear"), MODALITIES)
    parts = [torch.randn(n, 32) * 5 + 2 for n in (10, 1, 300)]
    parts[0][:, 3] = parts[1][:, 3] = parts[2][:, 3] = 7.0
    head = module.model.head
    assert head is not None
    head.fit_embeddings(parts)
    every = torch.cat(parts)
    torch.testing.assert_close(head.embedding_mean, every.mean(0))
    deviation = every.std(0, correction=0)
    deviation[3] = 1.0
    torch.testing.assert_close(head.embedding_scale, deviation)

"""The context term: against plain cross-entropies over the pixels of the batch, and its targets against loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from building import MODALITIES, crops_of, make_batch, query_sampling_for, remade, small

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.loss.context import context_discrimination, context_keys
from hybrid_patch.loss.context_targets import ContextTargets
from hybrid_patch.loss.term import ContextKeys
from hybrid_patch.train.step import TrainingModule


def keys_of(vectors: torch.Tensor, mask: torch.Tensor, weight: float) -> ContextKeys:
    empty = torch.zeros(1, 1, 0, vectors.shape[1]), torch.zeros(1, 1, 0, dtype=torch.bool), torch.zeros(0).long()
    return ContextKeys(*empty, vectors, mask, torch.tensor(weight), torch.zeros(0))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("weight", [1.0, 7.5])
def test_the_own_key_counts_once_and_others_by_their_weight(backend: str, weight: float) -> None:
    torch.manual_seed(0)
    vectors, mask = F.normalize(torch.randn(40, 9), dim=-1), torch.rand(40) > 0.3
    index = mask.nonzero()[:, 0]
    predicted = torch.randn(len(index), 9, requires_grad=True)
    loss = context_discrimination(predicted, vectors[index], keys_of(vectors, mask, weight), 0.1, backend, None)  # type: ignore[arg-type]
    logits = F.normalize(predicted, dim=-1) @ vectors[index].mT / 0.1
    bias = torch.full((len(index), len(index)), math.log(weight)).fill_diagonal_(0)
    plain = F.cross_entropy(logits + bias, torch.arange(len(index)), reduction="none")
    torch.testing.assert_close(loss, plain)
    gradient, expected = (torch.autograd.grad(x.sum(), predicted, retain_graph=True)[0] for x in (loss, plain))
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def statistics(targets: ContextTargets, name: str, batch: Batch) -> torch.Tensor:
    return targets.statistics(name, batch.pixels[name], batch.valid[name], batch.timestamps)


def test_a_query_s_target_is_of_its_own_pixel() -> None:
    """The loss of each drawn query, from the whole image of targets, is the term's."""
    config = small("patch=hybrid", "upsampler=bilinear", "loss.max_queries=20", "loss.context.max_keys=36")
    torch.manual_seed(0)
    module = TrainingModule(config, MODALITIES)
    sizes = PatchSizes(8, 1)
    batch = remade(make_batch(8, missing=0.2), query_sampling=query_sampling_for(64, most=20))
    assert module.objective.context_targets is not None
    module.objective.context_targets.fit(crops_of(batch))
    passed = module.forward_pass(batch, sizes)
    context = module.objective.batch_context(batch, sizes)
    (term,) = (term for term in module.objective.active_terms() if term.name == "context")
    targets = module.objective.context_targets
    parts = module.objective.parts(passed, "encoder", [term])["context"]
    losses = []
    for part in parts:
        keys, valid = context.keys[part.name], batch.valid[part.name].any(-1)
        assert keys.subpixels.tolist() == batch.query_sampling.subpixels[:3].tolist()  # 36 keys of 12 cells
        image = F.normalize(
            (statistics(targets, part.name, batch) - targets.get_buffer(f"{part.name}_mean"))
            @ targets.get_buffer(f"{part.name}_whitening"),
            dim=-1,
        )
        drawn = [(y * 8 + s // 8, x * 8 + s % 8) for y in range(2) for x in range(2) for s in keys.subpixels.tolist()]
        pixels = [(b, *p) for b in range(3) for p in drawn if valid[b, p[0], p[1]]]
        vectors = torch.stack([image[pixel] for pixel in pixels])
        weight = (valid.sum() - 1) / (len(pixels) - 1)
        queries = part.queries
        inner = queries.cells.length // 4
        for view in range(len(queries.cells.index)):
            each = []
            for row, cell in enumerate(queries.cells.index[view].tolist()):
                for column, subpixel in enumerate(queries.subpixels.tolist()[:3]):
                    y, x = divmod(cell // inner, 2)
                    pixel = (view // 2, y * 8 + subpixel // 8, x * 8 + subpixel % 8)
                    if queries.cells.valid()[view, row] and valid[pixel]:
                        logits = F.normalize(part.predicted[view, row, column], dim=-1) @ vectors.mT / 0.1
                        logits = logits + weight.log()
                        logits[pixels.index(pixel)] -= weight.log()
                        each.append(0.2 * F.cross_entropy(logits[None], torch.tensor([pixels.index(pixel)])))
            losses.append((part.name, torch.stack(each).mean() if each else torch.tensor(0.0)))
    names = [part.name for part in parts]
    plain = torch.stack([torch.stack([loss for each, loss in losses if each == name]).sum() for name in names])
    counts = context.counts["encoder"]
    torch.testing.assert_close(term.reduce(parts, context), (plain / counts).mean())


def test_targets_are_whitened_statistics_of_valid_pixels() -> None:
    batch = make_batch(8, samples=8, missing=0.3)
    targets = ContextTargets(MODALITIES, timesteps=2)
    assert targets.widths() == {"optical": 36, "height": 5}
    targets.fit(crops_of(batch))
    for name in targets.widths():
        values = statistics(targets, name, batch)[batch.valid[name].any(-1)]
        white = (values - targets.get_buffer(f"{name}_mean")) @ targets.get_buffer(f"{name}_whitening")
        covariance = white.mT @ white / len(white)
        assert white.mean(0).abs().max() < 1e-3
        assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-2
        assert covariance.diagonal().max() < 1.001
        assert covariance.diagonal()[:4].min() > 0.9  # components of little variance are shrunk
        unit = targets(name, batch, 8, 2, torch.tensor([3, 5]), averaged=False)
        assert unit.shape == (8, 4, 2, targets.widths()[name])
        torch.testing.assert_close(unit.norm(dim=-1), torch.ones(8, 4, 2))


def test_statistics_of_a_series_are_those_of_its_valid_dates() -> None:
    batch, targets = make_batch(8, timesteps=4, missing=0.3), ContextTargets(MODALITIES, timesteps=4)
    mean, deviation, cosine, _ = statistics(targets, "optical", batch)[..., -16:].unflatten(-1, (4, 4)).unbind(-2)
    y, x = next((y, x) for y in range(16) for x in range(16) if 2 <= batch.valid["optical"][0, y, x].sum() < 4)
    valid = batch.valid["optical"][0, y, x]
    series = batch.pixels["optical"][0, y, x][valid]
    months = (batch.timestamps[0, :, 1] + batch.timestamps[0, :, 0] / 31)[valid]
    torch.testing.assert_close(mean[0, y, x], series.mean(0))
    torch.testing.assert_close(deviation[0, y, x], (series.std(0, correction=0) + 0.01).log() + 3)
    centred = series - series.mean(0)
    torch.testing.assert_close(cosine[0, y, x], 2 * (centred * (months * math.pi / 6).cos()[:, None]).mean(0))


def test_keys_are_as_many_as_allowed_and_at_least_one_of_each_cell() -> None:
    batch, targets = make_batch(8), ContextTargets(MODALITIES, timesteps=2)
    for max_keys, expected in ((1, 1), (36, 3), (10**6, 64)):
        keys = context_keys(targets, "optical", batch, PatchSizes(8, 1), means=False, averaged=False, max_keys=max_keys)
        assert keys.positives.shape == (3, 4, expected, 36)
        assert len(keys.vectors) == 12 * expected
    torch.testing.assert_close(keys.weight, torch.tensor(1.0))  # all pixels are keys

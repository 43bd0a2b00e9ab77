"""In float32 the whole loss is as near to a float64 reference as plain float32 arithmetic can be, and nearer."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from building import dense_targets, under
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor

from hybrid_patch.config.modality import Modality
from hybrid_patch.loss.logsumexp import Backend
from hybrid_patch.loss.patch_discrimination import patch_discrimination
from hybrid_patch.loss.queries import all_queries
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.model.tokens import FineTokens, TokenGrid
from hybrid_patch.model.upsampler import TokenSpec
from hybrid_patch.model.upsampler.subpixel import Subpixel

CONF = Path(__file__).parents[2] / "conf" / "modality"
MODALITIES = sorted(path.stem for path in CONF.glob("*.yaml"))
BACKENDS: list[Backend] = ["flash_cpu", "chunked", "reference"]
DOUBLE = torch.float64


def declared(name: str) -> Modality:
    return TypeAdapter(Modality).validate_json(
        TypeAdapter(dict).dump_json(yaml.safe_load((CONF / f"{name}.yaml").read_text()))
    )


def of_bands(count: int) -> Modality:
    bands = tuple(f"b{i}" for i in range(count))
    half = (bands[: count // 2], bands[count // 2 :])
    return Modality(bands=bands, band_sets=tuple(s for s in half if s), temporal=True, gsd=10.0)


class Problem:
    """Hidden cells of a grid, ragged, some of their pixels missing, one sample with a single key and one with none."""

    def __init__(self, modality: Modality, width: int, output: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.output, self.factor = output, 4 // output
        sets = len(modality.band_sets)
        self.mask = torch.rand(4, 2, 3, 1, sets) < 0.6
        self.mask[2:] = False
        self.mask[2, 0, 1] = True
        self.tokens = torch.randn(*self.mask.shape, width, dtype=DOUBLE)
        self.upsampler = Subpixel(TokenSpec(width, {self.factor}), rank=5).double()
        torch.nn.init.normal_(self.upsampler.basis)
        self.positions = under(self.mask, self.factor)
        cells = self.positions.cells
        subpixels, numbers = self.factor**2, modality.channels * output**2
        if modality.kind == "categorical":
            classes = torch.randint(modality.channels, (*cells.index.shape, subpixels, output**2))
            self.pixels = F.one_hot(classes, modality.channels).flatten(3).to(DOUBLE)
        else:
            self.pixels = torch.rand(*cells.index.shape, subpixels, numbers, dtype=DOUBLE)
        self.loss_mask = cells.valid()[..., None] & (torch.rand(*cells.index.shape, subpixels) < 0.8)
        self.loss_mask[2:] = False
        self.loss_mask[2, 0, 0] = True
        self.targets = RandomTargets({"m": modality}, width, [output], seed=0, centre=False)
        self.band_set = cells.index % sets
        self.coded = modality.kind == "categorical"

    def gradient(self, dtype: torch.dtype, backend: Backend | None, temperature: float) -> tuple[Tensor, Tensor]:
        """Loss per sample and its gradient to the coarse tokens; None: the plain cross-entropy of dense tokens."""
        tokens = self.tokens.to(dtype).requires_grad_()
        upsampler, targets, pixels = self.upsampler.to(dtype), self.targets.to(dtype), self.pixels.to(dtype)
        fine = upsampler(TokenGrid(tokens, self.mask), self.factor, self.positions)
        if backend is None:
            dense = dense_targets(targets, "m", pixels, self.band_set, self.output)
            loss = torch.stack(
                [self.plain(*x, temperature) for x in zip(fine.dense(), dense, self.loss_mask, strict=True)]
            )
        else:
            queries = all_queries(self.positions.cells, self.factor)
            keys = targets.keys("m", pixels, self.band_set, self.output, self.coded)
            loss = patch_discrimination(fine, keys, self.loss_mask, queries, temperature, None, backend, 50)
        (gradient,) = torch.autograd.grad(loss.sum(), tokens)
        return loss.detach().double(), gradient.double()

    def plain(self, p: Tensor, t: Tensor, loss_mask: Tensor, temperature: float) -> Tensor:
        p, t = F.normalize(p[loss_mask], dim=-1), F.normalize(t[loss_mask], dim=-1)
        if len(p) == 0:
            return p.sum()
        logits = p @ t.mT / temperature
        if self.coded:
            same = (t[:, None] - t[None]).abs().amax(-1) < 1e-5
            logits = logits.masked_fill(same & ~torch.eye(len(p)).bool(), -torch.inf)
        return 2 * temperature * F.cross_entropy(logits, torch.arange(len(p)))


def held_to_the_reference(problem: Problem, backend: Backend, temperature: float) -> None:
    expected, expected_gradient = problem.gradient(DOUBLE, None, temperature)
    exact, exact_gradient = problem.gradient(DOUBLE, backend, temperature)
    torch.testing.assert_close(exact, expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(exact_gradient, expected_gradient, rtol=1e-7, atol=1e-9)
    _, plain_gradient = problem.gradient(torch.float32, None, temperature)
    loss, gradient = problem.gradient(torch.float32, backend, temperature)
    # 2τ times the logits' error, which is allowed 1e-5 of the largest logit, 1/τ.
    assert (loss - expected).abs().max() <= 2 * temperature * 1e-5 / temperature
    size = expected_gradient.norm()
    allowed = max(1e-5, 2 * ((plain_gradient - expected_gradient).norm() / size.clamp(min=1e-30)).item())
    assert (gradient - expected_gradient).norm() <= allowed * size


@pytest.mark.parametrize("name", MODALITIES)
@pytest.mark.parametrize("output", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_modality(name: str, output: int, backend: Backend) -> None:
    held_to_the_reference(Problem(declared(name), 64, output, 0), backend, 0.1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [0.02, 0.1])
@pytest.mark.parametrize("rare", [0, 8])
def test_one_class_that_covers_nearly_all_of_a_map(backend: Backend, temperature: float, rare: int) -> None:
    """The rest of the sum without a token's equals is a small part of it."""
    torch.manual_seed(0)
    modality = declared("worldcover")
    targets = RandomTargets({"m": modality}, 64, [1], seed=0, centre=False)
    kinds = torch.full((1, 64, 64), 3)
    kinds.flatten()[:rare] = 7
    pixels = F.one_hot(kinds, modality.channels).float()
    table = targets.table("m", 1)
    mask = torch.ones(1, 8, 8, 1, 1).bool()
    tokens = (table[3] + table[-1]) * 2 + 0.3 * torch.randn(*mask.shape, 64)  # nearly right
    losses = []
    for dtype in (DOUBLE, torch.float32):
        queries = all_queries(under(mask, 8).cells, 8)
        fine = FineTokens(TokenGrid(tokens.to(dtype), mask), 8, queries)
        keys = targets.to(dtype).keys("m", pixels.to(dtype), torch.zeros(1, 64).long(), 1, coded=True)
        loss_mask = torch.ones(1, 64, 64).bool()
        losses.append(patch_discrimination(fine, keys, loss_mask, queries, temperature, 11, backend, None))
    exact, actual = losses
    if not rare:
        assert exact.abs() < 1e-12  # nothing to tell it from
    assert (actual - exact).abs() <= 2 * temperature * 1e-5 / temperature


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25)
@given(
    width=st.sampled_from([16, 48, 256, 1024]), channels=st.integers(1, 64), output=st.sampled_from([1, 2, 4]),
    temperature=st.sampled_from([0.02, 0.1, 1.0]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_every_width_and_number_of_bands(
    backend: Backend, width: int, channels: int, output: int, temperature: float, seed: int
) -> None:
    held_to_the_reference(Problem(of_bands(channels), width, output, seed), backend, temperature)

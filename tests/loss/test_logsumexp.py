"""Every backend matches one float64 reference, in value and in gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hybrid_patch.errors import InputError
from hybrid_patch.loss.logsumexp import KERNELS, NEVER, Backend, by_kernel, fastest, log_sum_exp

BACKENDS: list[Backend] = ["flash_cpu", "chunked", "reference"]
DOUBLE = torch.float64


def drawn(b: int, n: int, m: int, width: int, scale: float, share: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and unit keys as patch discrimination has them, and biases: keys left out, not all, and counted often."""
    rng = torch.Generator().manual_seed(seed)
    query = torch.randn(b, n, width, generator=rng, dtype=DOUBLE)
    query = query / query.norm(dim=-1, keepdim=True) * scale
    key = torch.randn(b, m, width, generator=rng, dtype=DOUBLE)
    mask = torch.rand(b, m, generator=rng) < share
    mask[:, 0] = True
    counts = torch.randint(1, 5000, (b, m), generator=rng).to(DOUBLE)
    return query, key / key.norm(dim=-1, keepdim=True), torch.where(mask, counts.log(), NEVER)


def plain(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    return (query @ key.mT + torch.where(bias == NEVER, -torch.inf, bias)[:, None]).logsumexp(-1)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40)
@given(
    b=st.integers(1, 3), n=st.integers(1, 70), m=st.integers(1, 70), width=st.integers(1, 65),
    temperature=st.sampled_from([0.02, 0.1, 1.0]), share=st.sampled_from([0.0, 0.5, 1.0]),
    chunk=st.integers(1, 80), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_value_and_gradient(
    backend: Backend, b: int, n: int, m: int, width: int, temperature: float, share: float, chunk: int, seed: int
) -> None:
    query, key, bias = drawn(b, n, m, width, 1 / temperature, share, seed)
    expected = plain(query.requires_grad_(), key, bias)
    weight = torch.randn(b, n, dtype=DOUBLE)
    (expected_gradient,) = torch.autograd.grad((expected * weight).sum(), query)
    single = query.detach().float().requires_grad_()
    value = log_sum_exp(single, key.float(), bias.float(), backend, chunk)
    assert (value - expected).abs().max() <= 1e-5 * max((query @ key.mT).abs().max().item(), 1)
    (gradient,) = torch.autograd.grad((value * weight.float()).sum(), single)
    plain_single = plain(single, key.float(), bias.float())
    (plain_gradient,) = torch.autograd.grad((plain_single * weight.float()).sum(), single)
    size = expected_gradient.norm()
    allowed = max(1e-5, 2 * ((plain_gradient - expected_gradient).norm() / size).item())
    assert (gradient - expected_gradient).norm() <= allowed * size


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_in_float64(backend: Backend) -> None:
    query, key, bias = drawn(2, 5, 7, 3, 10.0, 0.6, 0)
    assert torch.autograd.gradcheck(lambda q: log_sum_exp(q, key, bias, backend, 2), (query.requires_grad_(),))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 0), (0, 0)])
def test_no_query_or_no_key_is_an_exact_zero(backend: Backend, n: int, m: int) -> None:
    query = torch.randn(2, n, 3, requires_grad=True)
    total = log_sum_exp(query, torch.randn(2, m, 3), torch.zeros(2, m), backend)
    total.sum().backward()
    assert total.shape == (2, n)
    assert not total.any()
    assert query.grad is not None
    assert not query.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sample_without_keys_to_keep_is_finite(backend: Backend) -> None:
    query, key, bias = drawn(2, 4, 6, 3, 10.0, 1.0, 0)
    bias[1] = NEVER
    total = log_sum_exp(query, key, bias, backend)
    assert torch.isfinite(total).all()
    torch.testing.assert_close(total[0], plain(query, key, bias)[0])


def test_auto_takes_the_kernel_and_others_say_why_they_cannot() -> None:
    query = torch.randn(1, 2, 3)
    assert fastest(query) == "flash_cpu"
    with pytest.raises(InputError, match=r"loss.backend=efficient_cuda: its kernel runs on a GPU, not on cpu"):
        log_sum_exp(query, query, torch.zeros(1, 2), "efficient_cuda")
    with pytest.raises(InputError, match=r"loss.backend=flex: its kernel runs on a GPU, not on cpu"):
        log_sum_exp(query, query, torch.zeros(1, 2), "flex")


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_the_sum_and_the_expected_key() -> None:
    """Uncompiled, as it runs on a CPU; the compiled kernel is compared with the reference where there is a GPU."""
    query, key, bias = (x.float() for x in drawn(2, 40, 50, 13, 10.0, 0.7, 0))
    total, expected_key = by_kernel(KERNELS["flex"], query, key, bias)
    torch.testing.assert_close(total, plain(query, key, bias), rtol=0, atol=1e-4)
    softmax = (query @ key.mT + bias[:, None]).softmax(-1)
    torch.testing.assert_close(expected_key, softmax @ key)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("backend", ["efficient_cuda", "flex"])
@pytest.mark.parametrize("width", [2, 9, 14, 33, 65])
@pytest.mark.parametrize("n", [1, 300])
def test_the_gpu_kernels_are_held_to_the_same_reference(backend: Backend, width: int, n: int) -> None:
    query, key, bias = drawn(3, n, n + 1, width, 10.0, 0.7, 0)
    expected = plain(query.requires_grad_(), key, bias)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), query)
    single = query.detach().float().cuda().requires_grad_()
    value = log_sum_exp(single, key.float().cuda(), bias.float().cuda(), backend)
    assert (value.cpu() - expected).abs().max() <= 1e-5 * (query @ key.mT).abs().max()
    (gradient,) = torch.autograd.grad(value.sum(), single)
    assert (gradient.cpu() - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()

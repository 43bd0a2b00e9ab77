"""What an encoder says of a place alone is taken off, and nothing else."""

import torch
from building import MODALITIES, OPTICAL

from hybrid_patch.model.position_means import PositionMeans
from hybrid_patch.model.tokens import TokenGrid

WIDTH = 5


def grids(windows: int, missing: float = 0.0, side: int = 4) -> list[dict[str, TokenGrid]]:
    """Windows whose tokens are those of the ground and of their place in the window."""
    rng = torch.Generator().manual_seed(0)
    place = torch.randn(side, side, 1, 2, WIDTH, generator=rng)
    made = []
    for _ in range(windows):
        tokens = torch.randn(1, side, side, 3, 2, WIDTH, generator=rng) + place + 7
        made.append({"optical": TokenGrid(tokens, torch.rand(tokens.shape[:-1], generator=rng) >= missing)})
    return made


def place_means(each: list[dict[str, TokenGrid]]) -> torch.Tensor:
    tokens, mask = (torch.cat([getattr(grid["optical"], part) for grid in each]) for part in ("tokens", "mask"))
    total = torch.where(mask[..., None], tokens, 0).sum((0, 3))
    return total / mask.sum((0, 3))[..., None]


def test_all_places_have_the_same_mean_and_the_mean_stays() -> None:
    means, windows = PositionMeans(MODALITIES, WIDTH, [(8, 4)]), grids(30, missing=0.2)
    before = place_means(windows)
    means.fit(windows, 8, {})
    after = place_means([means(each, 8) for each in windows])
    torch.testing.assert_close(after, before.mean((0, 1), keepdim=True).expand_as(after), rtol=1e-4, atol=1e-4)


def test_the_mean_can_be_that_of_a_teacher() -> None:
    means, windows = PositionMeans({"optical": OPTICAL}, WIDTH, [(8, 4)]), grids(30, missing=0.2)
    teacher = torch.arange(WIDTH, dtype=torch.float32)
    means.fit(windows, 8, {"optical": teacher})
    after = place_means([means(each, 8) for each in windows])
    torch.testing.assert_close(after, teacher.expand_as(after), rtol=1e-4, atol=1e-4)


def test_windows_of_other_sizes_and_other_modalities_stay_as_they_are() -> None:
    means, windows = PositionMeans(MODALITIES, WIDTH, [(8, 4), (4, 8)]), grids(10)
    assert not means.is_fitted
    means.fit(windows, 8, {})
    assert means.is_fitted
    others = grids(1, side=6)[0]
    assert torch.equal(means(others, 8)["optical"].tokens, others["optical"].tokens)
    assert torch.equal(means(windows[0], 1)["optical"].tokens, windows[0]["optical"].tokens)
    assert not any(bool(x.any()) for name, x in means.named_buffers() if not name.startswith("optical_ps8_4"))

"""Windows cover an image, and blended they make one image without seams."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hybrid_patch.embed.windows import Tiling, blended, blending_weights


@given(length=st.integers(1, 300), patches=st.integers(1, 8), patch_size=st.sampled_from([1, 4, 8]), data=st.data())
def test_windows_cover_a_side(length: int, patches: int, patch_size: int, data: st.DataObject) -> None:
    side = patches * patch_size
    overlap = data.draw(st.integers(0, side - 1))
    tiling = Tiling.overlapping(side, overlap, patch_size)
    starts = tiling.starts(length)
    covered = {place for start in starts for place in range(start, start + side)}
    assert set(range(length)) <= covered
    assert all(start % patch_size == 0 for start in starts[:-1])
    assert starts == sorted(set(starts))
    assert starts[-1] + side == max(length, side)
    assert all(a + side - b >= min(overlap, side - patch_size) for a, b in itertools.pairwise(starts))


def test_an_overlap_of_a_whole_window_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap=8: takes 0 to 7"):
        Tiling.overlapping(8, 8, 4)


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_windows_count_less_towards_their_borders(side: int) -> None:
    weights = blending_weights(side)[..., 0]
    assert weights.min() > 0
    assert torch.equal(weights, weights.flip(0))
    assert torch.equal(weights, weights.mT)
    middle = weights[side // 2]
    assert torch.equal(middle[: side // 2 + 1], middle[: side // 2 + 1].sort().values)


def pixels(height: int, width: int) -> Tensor:
    return torch.randn(height + 16, width + 16, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("height", "width", "overlap"), [(40, 30, 8), (17, 5, 4), (16, 16, 0), (33, 70, 12), (3, 2, 4)]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_where_all_windows_agree_nothing_is_changed(height: int, width: int, overlap: int, batch: int) -> None:
    image, tiling = pixels(height, width), Tiling.overlapping(16, overlap, 4)
    calls = []

    def embed(top: int, lefts: list[int]) -> Tensor:
        calls.append(len(lefts))
        return torch.stack([image[top : top + 16, left : left + 16] for left in lefts])

    image_blended = torch.cat(list(blended(height, width, tiling, embed, batch)))
    torch.testing.assert_close(image_blended, image[:height, :width])
    assert max(calls) <= batch


@pytest.mark.parametrize("first", [0, 1, 11, 12, 13, 39])
def test_rows_do_not_depend_on_the_first_row(first: int) -> None:
    """Each window here says something else, as a model's do."""
    tiling = Tiling.overlapping(16, 8, 4)

    def embed(top: int, lefts: list[int]) -> Tensor:
        return torch.stack([pixels(0, 0)[:, :, :1] * (top + 0.1 * left + 1) for left in lefts])

    whole = torch.cat(list(blended(40, 30, tiling, embed, 2)))
    assert torch.equal(torch.cat(list(blended(40, 30, tiling, embed, 2, first))), whole[first:])


def test_no_seam_shows_where_windows_meet() -> None:
    """Windows that disagree by a constant: the step is spread over the overlap."""
    tiling = Tiling.overlapping(16, 8, 4)

    def embed(top: int, lefts: list[int]) -> Tensor:
        return torch.stack([torch.full((16, 16, 1), float(left % 16 == 0)) for left in lefts])

    rows = torch.cat(list(blended(16, 80, tiling, embed, 8)))[8, :, 0]
    assert rows.min() < 0.1
    assert rows.max() > 0.9
    assert rows.diff().abs().max() < 0.2

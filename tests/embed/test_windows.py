"""Windows cover an image, and blended they make one image without seams."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hybrid_patch.embed.windows import Blender, Tiling, blending_weights
from hybrid_patch.errors import InputError


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
    with pytest.raises(InputError, match="overlap=8: takes 0 to 7"):
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


def blended(height: int, width: int, tiling: Tiling, embed: Callable[[int, int], Tensor], first: int = 0) -> Tensor:
    """The rows of an image from `first` on; `embed` gives the window at a row and a column."""
    lefts, tops = tiling.starts(width), tiling.starts(height, first)
    blender = Blender(height, tiling, lefts)
    rows = [blender.add(top, [torch.stack([embed(top, left)]) for left in lefts]) for top in tops]
    return torch.cat(rows)[first - tops[0] :, :width]


@pytest.mark.parametrize(
    ("height", "width", "overlap"), [(40, 30, 8), (17, 5, 4), (16, 16, 0), (33, 70, 12), (3, 2, 4)]
)
def test_where_all_windows_agree_nothing_is_changed(height: int, width: int, overlap: int) -> None:
    image, tiling = pixels(height, width), Tiling.overlapping(16, overlap, 4)
    image_blended = blended(height, width, tiling, lambda top, left: image[top : top + 16, left : left + 16])
    torch.testing.assert_close(image_blended, image[:height, :width])


@pytest.mark.parametrize("first", [0, 1, 11, 12, 13, 39])
def test_rows_do_not_depend_on_the_first_row(first: int) -> None:
    """Each window here says something else, as a model's do."""
    tiling = Tiling.overlapping(16, 8, 4)

    def embed(top: int, left: int) -> Tensor:
        return pixels(0, 0)[:, :, :1] * (top + 0.1 * left + 1)

    assert torch.equal(blended(40, 30, tiling, embed, first), blended(40, 30, tiling, embed)[first:])


def test_no_seam_shows_where_windows_meet() -> None:
    """Windows that disagree by a constant: the step is spread over the overlap."""
    tiling = Tiling.overlapping(16, 8, 4)
    rows = blended(16, 80, tiling, lambda top, left: torch.full((16, 16, 1), float(left % 16 == 0)))[8, :, 0]
    assert rows.min() < 0.1
    assert rows.max() > 0.9
    assert rows.diff().abs().max() < 0.2

"""Packing keeps what it should, in order, and puts it back."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hybrid_patch.data.packing import pack

Array = np.ndarray


@settings(max_examples=60)
@given(mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_gather_keeps_the_tokens_in_order_and_scatter_puts_them_back(mask: Array) -> None:
    kept_mask = torch.from_numpy(mask)
    values = torch.randn(*kept_mask.shape, 3)
    packing = pack(kept_mask)
    gathered, valid = packing.gather(values), packing.valid()
    for sample in range(len(kept_mask)):
        assert torch.equal(gathered[sample][valid[sample]], values[sample][kept_mask[sample]])
    assert torch.equal(packing.scatter(gathered), torch.where(kept_mask[..., None], values, 0))


@settings(max_examples=20)
@given(samples=st.integers(1, 4), length=st.integers(1, 9))
def test_nothing_kept_leaves_one_padded_place(samples: int, length: int) -> None:
    packing = pack(torch.zeros(samples, length).bool())
    assert packing.index.shape == (samples, 1)
    assert not packing.valid().any()
    assert not packing.scatter(torch.ones(samples, 1, 2)).any()


def test_full_rows_need_no_mask() -> None:
    assert pack(torch.tensor([[True, False, True], [False, True, True]])).padding_mask is None

"""Which part of a data set is held out for validation, where the user does not say so."""

import hashlib
from collections.abc import Sequence
from itertools import product

import numpy as np
from jaxtyping import Bool, Int

from hybrid_patch.data.source import Array, Window


def hold_out(groups: Sequence[str], share: float) -> Bool[Array, " n"]:
    """Which samples, given by the names of their groups, are for validation.

    These are the first `share` of the groups in the order of a hash of their names, on every machine. With two groups
    or more and a share above 0, each side has at least one; a single group is for training.
    """
    names = sorted(
        set(groups), key=lambda group: (hashlib.sha256(group.encode(errors="surrogateescape")).digest(), group)
    )
    count = min(max(round(share * len(names)), 1), len(names) - 1) if share > 0 else 0
    held_out = frozenset(names[:count])
    return np.array([group in held_out for group in groups], bool)


def split_blocks(
    height: int, width: int, side: int, share: float
) -> tuple[list[Window], Bool[Array, " n"], Int[Array, " n"]]:
    """Cut a scene into blocks of `side` × `side` pixels: the blocks, which are for validation, and their groups.

    Validation has the first block columns (rows, where the scene is too narrow for two columns), as near to `share` of
    them as whole blocks allow, each side at least one; where that does not fit, or share is 0, there is none. The last
    row and column of blocks of either part are shifted inward to full size (unless the scene is smaller): blocks, of
    one group then, may overlap within a part, but no pixel is in both.
    """
    by_column = width >= 2 * side
    length = width if by_column else height
    held_out = 0
    if share > 0 and length >= 2 * side:
        held_out = side * min(max(round(share * (length // side)), 1), length // side - 1)
    blocks, keys = [], []
    for val, part in ((True, (0, held_out)), (False, (held_out, length))):
        rows, columns = ((0, height), part) if by_column else (part, (0, width))
        for (top, tall, row), (left, wide, column) in product(_pieces(*rows, side), _pieces(*columns, side)):
            blocks.append(Window(top, left, tall, wide))
            keys.append((val, row, column))
    _, groups = np.unique(np.array(keys, np.int64), axis=0, return_inverse=True)
    return blocks, np.array([val for val, _, _ in keys]), groups.reshape(-1)


def _pieces(low: int, high: int, side: int) -> list[tuple[int, int, int]]:
    """Start, length and group of the pieces that cover `[low, high)`; the last, shifted, is in the group before."""
    count = (high - low) // side
    if count == 0:
        return [(low, high - low, 0)] if low < high else []
    pieces = [(low + number * side, side, number) for number in range(count)]
    return pieces if low + count * side == high else [*pieces, (high - side, side, count - 1)]

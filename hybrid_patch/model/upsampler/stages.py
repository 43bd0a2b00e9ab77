"""Stages that divide each position into parts, one stage for each prime factor of a ratio: 8 is 2, 2, 2."""

import itertools
import operator
from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from hybrid_patch.config.curriculum import prime_factors


def reached_factors(largest: int) -> tuple[int, ...]:
    """The factor that is reached behind each stage: products of the first prime factors of the largest."""
    return tuple(itertools.accumulate(prime_factors(largest), operator.mul))


def nested_index(subpixels: Int[Tensor, " p"], factor: int, sides: Sequence[int]) -> Int[Tensor, " p"]:
    """Subpixels of a cell, counted row by row → their index in the order of stages with these sides: part of part.

    With fewer stages than the factor has, the index of the part that a subpixel lies in.
    """
    row, column = subpixels // factor, subpixels % factor
    nested, rest = subpixels * 0, factor
    for side in sides:
        rest //= side
        nested = nested * side**2 + (row // rest % side) * side + column // rest % side
    return nested

"""Masks and maps derived from a map of labels: mixed patches, class boundaries, and the majority of each block."""

import numpy as np
from jaxtyping import Bool, Int

from hybrid_patch.data.source import UNLABELLED

Array = np.ndarray


def blocks(values: Int[Array, "h w"], side: int) -> Int[Array, "rows columns pixels"]:
    """A map as blocks of `side` × `side` pixels, padded with `UNLABELLED` at its lower and right edges."""
    h, w = values.shape
    padded = np.pad(values, ((0, -h % side), (0, -w % side)), constant_values=UNLABELLED)
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    return padded.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, side * side)


def _per_pixel(values: Array, side: int, shape: tuple[int, ...]) -> Array:
    """One value per block, repeated for all of its pixels."""
    return values.repeat(side, 0).repeat(side, 1)[: shape[0], : shape[1]]


def mixed_patches(labels: Int[Array, "h w"], side: int) -> Bool[Array, "h w"]:
    """The labelled pixels of blocks that contain more than one class."""
    in_blocks = blocks(labels, side)
    highest = in_blocks.max(-1)
    lowest = np.where(in_blocks == UNLABELLED, highest[..., None], in_blocks).min(-1)
    return _per_pixel(lowest != highest, side, labels.shape) & (labels != UNLABELLED)


def boundary_pixels(labels: Int[Array, "h w"]) -> Bool[Array, "h w"]:
    """The labelled pixels with a pixel of another class above, below, to the left or to the right."""
    boundary = np.zeros(labels.shape, bool)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = (labels[a] != labels[b]) & (labels[a] != UNLABELLED) & (labels[b] != UNLABELLED)
        boundary[a] |= differs
        boundary[b] |= differs
    return boundary


def block_majority(labels: Int[Array, "h w"], side: int) -> Int[Array, "h w"]:
    """Each block's most frequent class, in all of its pixels: the upper bound for one prediction per block.

    The first of equally frequent classes; `UNLABELLED` for a block without labels.
    """
    in_blocks = blocks(labels, side)
    classes = max(int(labels.max(initial=0)), 0) + 1
    counts = np.stack([(in_blocks == value).sum(-1) for value in range(classes)], axis=-1)
    return _per_pixel(np.where(counts.any(-1), counts.argmax(-1), UNLABELLED), side, labels.shape)

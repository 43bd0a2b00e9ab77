"""Square blocks of images, and maps derived from a map of labels: mixed patches, class boundaries, block majorities."""

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Int, Shaped

from hybrid_patch.data.source import UNLABELLED

Array = np.ndarray


def blocks(values: Shaped[Array, "h w *n"], side: int, fill: int = 0) -> Shaped[Array, "rows columns pixels *n"]:
    """An image as blocks of `side` × `side` pixels, filled up at its lower and right edges."""
    padding = [(0, -values.shape[0] % side), (0, -values.shape[1] % side), *[(0, 0)] * (values.ndim - 2)]
    padded = np.pad(values, padding, constant_values=fill)
    return rearrange(padded, "(rows a) (columns b) ... -> rows columns (a b) ...", a=side, b=side)


def per_pixel(values: Shaped[Array, "rows columns *n"], side: int, shape: tuple[int, ...]) -> Shaped[Array, "h w *n"]:
    """One value per block, repeated for all of its pixels."""
    return values.repeat(side, 0).repeat(side, 1)[: shape[0], : shape[1]]


def _class_counts(labels: Int[Array, "h w"], side: int) -> Int[Array, "rows columns classes"]:
    in_blocks = blocks(labels, side, UNLABELLED)
    return np.stack([(in_blocks == value).sum(-1) for value in range(labels.max(initial=0) + 1)], axis=-1)


def mixed_patches(labels: Int[Array, "h w"], side: int) -> Bool[Array, "h w"]:
    """The labelled pixels of blocks that contain more than one class."""
    mixed = np.count_nonzero(_class_counts(labels, side), axis=-1) > 1
    return per_pixel(mixed, side, labels.shape) & (labels != UNLABELLED)


def boundary_pixels(labels: Int[Array, "h w"]) -> Bool[Array, "h w"]:
    """The labelled pixels with a pixel of another class above, below, to the left or to the right."""
    boundary = np.zeros(labels.shape, bool)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = (labels[a] != labels[b]) & (labels[a] != UNLABELLED) & (labels[b] != UNLABELLED)
        boundary[a] |= differs
        boundary[b] |= differs
    return boundary


def block_majority(labels: Int[Array, "h w"], side: int) -> Int[Array, "h w"]:
    """Each block's most frequent class (the first of several) in all of its pixels; `UNLABELLED` without labels."""
    counts = _class_counts(labels, side)
    return per_pixel(np.where(counts.any(-1), counts.argmax(-1), UNLABELLED), side, labels.shape)

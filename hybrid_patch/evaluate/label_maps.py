"""What a map of labels says about itself: where patches are mixed, where classes meet, and what 8 pixels can tell."""

import numpy as np
from jaxtyping import Bool, Int

from hybrid_patch.data.source import UNLABELLED

Array = np.ndarray


def blocks(values: Int[Array, "h w"], side: int) -> Int[Array, "rows columns pixels"]:
    """A map cut into blocks of `side` × `side` pixels, filled up with `UNLABELLED` at its lower and right edges."""
    h, w = values.shape
    padded = np.pad(values, ((0, -h % side), (0, -w % side)), constant_values=UNLABELLED)
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    return padded.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, side * side)


def mixed_patches(labels: Int[Array, "h w"], side: int) -> Bool[Array, "h w"]:
    """The labelled pixels of blocks in which there is more than one class."""
    cut = blocks(labels, side)
    highest = cut.max(-1)
    lowest = np.where(cut == UNLABELLED, highest[..., None], cut).min(-1)
    mixed = (lowest != highest).repeat(side, 0).repeat(side, 1)[: labels.shape[0], : labels.shape[1]]
    return mixed & (labels != UNLABELLED)


def boundary_pixels(labels: Int[Array, "h w"]) -> Bool[Array, "h w"]:
    """The labelled pixels with a pixel of another class above, below, to the left or to the right."""
    beside = np.zeros(labels.shape, bool)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        other = (labels[a] != labels[b]) & (labels[a] != UNLABELLED) & (labels[b] != UNLABELLED)
        beside[a] |= other
        beside[b] |= other
    return beside


def block_majority(labels: Int[Array, "h w"], side: int) -> Int[Array, "h w"]:
    """Each block's most frequent class, in all of its pixels: the best that one answer per block can do.

    Of classes that are equally frequent the first; `UNLABELLED` for a block without any.
    """
    cut = blocks(labels, side)
    classes = max(int(labels.max(initial=0)), 0) + 1
    counts = np.stack([(cut == value).sum(-1) for value in range(classes)], axis=-1)
    winner = np.where(counts.any(-1), counts.argmax(-1), UNLABELLED)
    return winner.repeat(side, 0).repeat(side, 1)[: labels.shape[0], : labels.shape[1]]

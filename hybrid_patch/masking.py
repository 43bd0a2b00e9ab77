"""Which tokens the encoder sees and which the decoder predicts, drawn on the coarse grid."""

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Int8

from hybrid_patch.config.schema import Masking, ModalityCrossRandomMasking
from hybrid_patch.data.modality import Modality

Array = np.ndarray


class Mask(IntEnum):
    """What becomes of a token."""

    ENCODE = 0
    """The encoder sees it."""
    TARGET_ONLY = 1
    """It takes no part in this step."""
    DECODE = 2
    """It is hidden from the encoder, and the decoder predicts it."""
    MISSING = 3
    """Nothing was measured there."""


def coarse_presence(
    valid: Bool[Array, "b height width t"], patch_size: int, band_sets: int
) -> Bool[Array, "b h w t s"]:
    """Where there is a token: a patch with at least one valid pixel (its missing pixels are zeros)."""
    b, height, width, t = valid.shape
    cells = valid.reshape(b, height // patch_size, patch_size, width // patch_size, patch_size, t)
    return np.repeat(np.any(cells, axis=(2, 4))[..., None], band_sets, axis=-1)


def draw(
    config: Masking,
    modalities: Mapping[str, Modality],
    present: Mapping[str, Bool[Array, "b _ _ _ _"]],
    rng: np.random.Generator,
) -> dict[str, Int8[Array, "b _ _ _ _"]]:
    """A mask value for every token of every modality.

    In each sample and modality `encode_ratio` of the present tokens (at least one) are ENCODE and `decode_ratio` are
    DECODE, at random; a `decode_only` modality encodes none. `modality_cross_random` then draws, per sample, which
    (modality, band set) pairs may be encoded and which may be decoded (at least one each); the tokens of the others
    become TARGET_ONLY.

    Args:
        present: per modality `[B, h, w, T, S]`, True where there is a token (`coarse_presence`).
    """
    masks = {
        name: _random(config.encode_ratio if not modalities[name].decode_only else 0.0, config.decode_ratio, there, rng)
        for name, there in present.items()
    }
    if isinstance(config, ModalityCrossRandomMasking):
        _cross(masks, modalities, rng)
    return masks


def _random(
    encode_ratio: float, decode_ratio: float, present: Bool[Array, "b _ _ _ _"], rng: np.random.Generator
) -> Int8[Array, "b _ _ _ _"]:
    flat = present.reshape(len(present), -1)
    count = flat.sum(1, keepdims=True)
    encode = np.rint(encode_ratio * count)
    if encode_ratio > 0:
        encode = np.maximum(encode, np.minimum(count, 1))
    decode = np.minimum(np.rint(decode_ratio * count), count - encode)
    # Present tokens come first in the drawn order, so that their rank is uniform over 0 .. count - 1.
    order = np.argsort(rng.random(flat.shape, dtype=np.float32) + ~flat, axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(flat.shape[1])[None], axis=1)
    values = np.full(flat.shape, Mask.TARGET_ONLY, dtype=np.int8)
    values[rank < encode + decode] = Mask.DECODE
    values[rank < encode] = Mask.ENCODE
    values[~flat] = Mask.MISSING
    return values.reshape(present.shape)


def _cross(
    masks: Mapping[str, Int8[Array, "b _ _ _ _"]], modalities: Mapping[str, Modality], rng: np.random.Generator
) -> None:
    """Leave, in each sample, only some (modality, band set) pairs to be encoded, and some to be decoded."""
    for sample in range(len(next(iter(masks.values())))):
        pairs = [(name, s) for name, mask in masks.items() for s in range(mask.shape[-1])]
        for value in (Mask.ENCODE, Mask.DECODE):
            able = [(name, s) for name, s in pairs if (masks[name][sample, ..., s] == value).any()]
            if not able:
                continue
            chosen = rng.permutation(len(able))[: rng.integers(1, len(able) + 1)]
            kept = {able[i] for i in chosen}
            for name, s in able:
                if (name, s) not in kept:
                    tokens = masks[name][sample, ..., s]
                    tokens[tokens == value] = Mask.TARGET_ONLY

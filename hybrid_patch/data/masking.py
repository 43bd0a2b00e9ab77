"""Which tokens the encoder sees and which the decoder predicts, drawn on the coarse grid."""

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Int8

from hybrid_patch.config.masking_options import Masking, ModalityCrossRandomMasking, SpaceMasking, TimeMasking
from hybrid_patch.config.modality import Modality

Array = np.ndarray


class Mask(IntEnum):
    """The role of a token in a step."""

    ENCODE = 0
    """The encoder sees it."""
    TARGET_ONLY = 1
    """It takes no part in this step."""
    DECODE = 2
    """It is hidden from the encoder, and the decoder predicts it."""
    MISSING = 3
    """It has no valid pixel."""


def coarse_presence(
    valid: Bool[Array, "b height width t"], patch_size: int, band_sets: int
) -> Bool[Array, "b h w t s"]:
    """True where there is a token: a patch with at least one valid pixel (its missing pixels are zeros)."""
    b, height, width, t = valid.shape
    cells = valid.reshape(b, height // patch_size, patch_size, width // patch_size, patch_size, t)
    return np.repeat(np.any(cells, axis=(2, 4))[..., None], band_sets, axis=-1)


def draw_masks(
    config: Masking,
    modalities: Mapping[str, Modality],
    presence: Mapping[str, Bool[Array, "b _ _ _ _"]],
    rng: np.random.Generator,
) -> dict[str, Int8[Array, "b _ _ _ _"]]:
    """A mask value for every token of every modality.

    `encode_ratio` of what is drawn (at least one) are ENCODE and `decode_ratio` are DECODE, at random: in `random` and
    `modality_cross_random` the present tokens of each modality, in `space` the places where any input modality is
    presence, in `time` the timesteps at which any input series is (and of static modalities the tokens). Tokens of a
    `decode_only` modality that would be ENCODE are TARGET_ONLY, in `random` others are drawn in their place.
    `modality_cross_random` then draws, per sample, which (modality, band set) pairs may be encoded and which may be
    decoded (at least one each); the tokens of the others become TARGET_ONLY.

    Args:
        presence: per modality `[B, h, w, T, S]`, True where there is a token (`coarse_presence`).
    """
    match config:
        case SpaceMasking():
            return _jointly(config, modalities, modalities, presence, (3, 4), rng)
        case TimeMasking():
            series = {name: modality for name, modality in modalities.items() if modality.temporal}
            masks = _jointly(config, series, modalities, presence, (1, 2, 4), rng)
            static = {name: mask for name, mask in presence.items() if name not in series}
            masks |= _one_by_one(config, modalities, static, rng)
            return {name: masks[name] for name in presence}
        case _:
            masks = _one_by_one(config, modalities, presence, rng)
            if isinstance(config, ModalityCrossRandomMasking):
                _cross(masks, modalities, rng)
            return masks


def expected_tokens(config: Masking, modality: Modality, grid: tuple[int, int, int, int], value: Mask) -> int:
    """Number of ENCODE or DECODE tokens of a grid `(h, w, T, S)` without missing data.

    With `modality_cross_random`, the largest possible.
    """
    h, w, t, s = grid
    match config:
        case SpaceMasking():
            drawn = h * w
        case TimeMasking() if modality.temporal:
            drawn = t
        case _:
            drawn = h * w * t * s
    encode, decode = _shares(config.encode_ratio, config.decode_ratio, np.array([drawn]))
    return int((encode if value == Mask.ENCODE else decode)[0]) * (h * w * t * s // drawn)


def _shares(encode_ratio: float, decode_ratio: float, count: Array) -> tuple[Array, Array]:
    """Numbers of ENCODE and DECODE tokens among `count`."""
    encode = np.rint(encode_ratio * count)
    if encode_ratio > 0:
        encode = np.maximum(encode, np.minimum(count, 1))
    return encode, np.minimum(np.rint(decode_ratio * count), count - encode)


def _one_by_one(
    config: Masking,
    modalities: Mapping[str, Modality],
    presence: Mapping[str, Bool[Array, "b _ _ _ _"]],
    rng: np.random.Generator,
) -> dict[str, Int8[Array, "b _ _ _ _"]]:
    return {
        name: _random(config.encode_ratio if not modalities[name].decode_only else 0.0, config.decode_ratio, mask, rng)
        for name, mask in presence.items()
    }


def _jointly(
    config: Masking,
    names: Mapping[str, Modality],
    modalities: Mapping[str, Modality],
    presence: Mapping[str, Bool[Array, "b _ _ _ _"]],
    axes: tuple[int, ...],
    rng: np.random.Generator,
) -> dict[str, Int8[Array, "b _ _ _ _"]]:
    """One draw for several modalities: tokens that differ only along `axes` share their value."""
    input_presence = [
        presence[name].any(axis=axes, keepdims=True) for name in names if not modalities[name].decode_only
    ]
    if not input_presence:
        return {}
    drawn = _random(config.encode_ratio, config.decode_ratio, np.logical_or.reduce(input_presence), rng)
    masks = {}
    for name in names:
        values = np.broadcast_to(drawn, presence[name].shape)
        # Tokens where no input is present (a map may cover more ground) take no part.
        values = np.where(values == Mask.MISSING, Mask.TARGET_ONLY, values)
        if modalities[name].decode_only:
            values = np.where(values == Mask.ENCODE, Mask.TARGET_ONLY, values)
        masks[name] = np.where(presence[name], values, Mask.MISSING).astype(np.int8)
    return masks


def _random(
    encode_ratio: float, decode_ratio: float, presence: Bool[Array, "b *axes"], rng: np.random.Generator
) -> Int8[Array, "b *axes"]:
    flat = presence.reshape(len(presence), -1)
    encode, decode = _shares(encode_ratio, decode_ratio, flat.sum(1, keepdims=True))
    # Present tokens come first in the drawn order, so that their rank is uniform over 0 .. count - 1.
    order = np.argsort(rng.random(flat.shape, dtype=np.float32) + ~flat, axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(flat.shape[1])[None], axis=1)
    values = np.full(flat.shape, Mask.TARGET_ONLY, dtype=np.int8)
    values[rank < encode + decode] = Mask.DECODE
    values[rank < encode] = Mask.ENCODE
    values[~flat] = Mask.MISSING
    return values.reshape(presence.shape)


def _cross(
    masks: Mapping[str, Int8[Array, "b _ _ _ _"]], modalities: Mapping[str, Modality], rng: np.random.Generator
) -> None:
    """Draw for each sample the (modality, band set) pairs that may be encoded, and those that may be decoded."""
    for sample in range(len(next(iter(masks.values())))):
        pairs = [(name, s) for name, mask in masks.items() for s in range(mask.shape[-1])]
        for value in (Mask.ENCODE, Mask.DECODE):
            able = [(name, s) for name, s in pairs if (masks[name][sample, ..., s] == value).any()]
            if not able:
                continue
            chosen = rng.permutation(len(able))[: rng.integers(1, len(able) + 1)]
            chosen_pairs = {able[i] for i in chosen}
            for name, s in able:
                if (name, s) not in chosen_pairs:
                    tokens = masks[name][sample, ..., s]
                    tokens[tokens == value] = Mask.TARGET_ONLY

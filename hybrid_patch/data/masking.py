"""Which tokens the encoder sees and which the decoder predicts, drawn on the coarse grid."""

import math
from collections.abc import Mapping
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Int8

from hybrid_patch.config.masking_options import Masking
from hybrid_patch.config.modality import Modality

Array = np.ndarray


TIME_SHARE = 0.5
"""Of the samples of `random_time_with_decode`: those whose series are masked by timesteps."""


class Mask(IntEnum):
    """The role of a token in a step."""

    ENCODE = 0  # the encoder sees it
    TARGET_ONLY = 1  # it takes no part in this step
    DECODE = 2  # it is hidden from the encoder, and the decoder predicts it
    MISSING = 3  # it has no valid pixel


Grid = tuple[int, int, int, int]
"""`(h, w, T, S)`: coarse cells, timesteps, band sets."""


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
    """A mask value for every token, from where there is one (`coarse_presence`), per modality `[B, h, w, T, S]`.

    `encode_ratio` of what is drawn (at least one) are ENCODE and `decode_ratio` are DECODE, at random: in `random` and
    `modality_cross_random` the tokens of each modality, in `space` the places where any input modality has one, in
    `time` the timesteps at which any input series has one (and of static modalities the tokens). What would be ENCODE
    of a `decode_only` modality is TARGET_ONLY. `modality_cross_random` then draws, per sample, which (modality, band
    set) pairs may be encoded and which decoded (at least one each); the tokens of the others become TARGET_ONLY.
    For `random_time_with_decode` see `_random_time_with_decode`.
    """
    if config.name == "random_time_with_decode":
        return _random_time_with_decode(config, modalities, presence, rng)
    shared = {name: _shared_axes(config, modalities[name]) for name in presence}
    together = [name for name, axes in shared.items() if axes]
    groups = [together, *([name] for name, axes in shared.items() if not axes)]
    masks = {}
    for names in filter(None, groups):
        # Tokens that differ only along these axes of the grid (the first is the batch) share what is drawn.
        axes = tuple(axis + 1 for axis in shared[names[0]])
        inputs = [name for name in names if not modalities[name].decode_only]
        any_input = np.logical_or.reduce([presence[name].any(axis=axes, keepdims=True) for name in inputs or names])
        drawn = _random(config.encode_ratio if inputs else 0.0, config.decode_ratio, any_input, rng)
        for name in names:
            # Tokens where no input is present (a map may cover more ground) take no part.
            unused = (Mask.MISSING, Mask.ENCODE) if modalities[name].decode_only else (Mask.MISSING,)
            values = np.where(np.isin(drawn, unused), Mask.TARGET_ONLY, drawn)
            masks[name] = np.where(presence[name], values, Mask.MISSING).astype(np.int8)
    if config.name == "modality_cross_random":
        _cross(masks, rng)
    return {name: masks[name] for name in presence}


def expected_tokens(config: Masking, modality: Modality, grid: Grid, value: Mask) -> int:
    """The (largest) number of ENCODE or DECODE tokens of a grid without missing data."""
    if config.name == "random_time_with_decode":
        return grid[3] * _largest_pair(config, modality, grid, value)
    each = math.prod(grid[axis] for axis in _shared_axes(config, modality))
    encode, decode = _shares(config.encode_ratio, config.decode_ratio, np.array([math.prod(grid) // each]))
    return int((encode if value == Mask.ENCODE else decode)[0]) * each


def widest_sample(
    config: Masking, modalities: Mapping[str, Modality], grids: Mapping[str, Grid], value: Mask
) -> tuple[int, dict[str, int]]:
    """The largest number of ENCODE or DECODE tokens that a sample without missing data can have: of all modalities that
    can have any together, and of each. A batch of many samples is so wide."""
    able = {n: grid for n, grid in grids.items() if value == Mask.DECODE or not modalities[n].decode_only}
    each = {name: expected_tokens(config, modalities[name], grid, value) for name, grid in able.items()}
    if config.name != "random_time_with_decode":
        return sum(each.values()), each
    sizes = {name: each[name] // grid[3] for name, grid in able.items()}
    pairs = sorted(sizes[n] for n, grid in able.items() if not modalities[n].decode_only for _ in range(grid[3]))
    encoded = math.ceil(config.encode_ratio * len(pairs))
    count = encoded if value == Mask.ENCODE or len(pairs) == 1 else len(pairs) - encoded
    each = {n: x if modalities[n].decode_only else min(grids[n][3], count) * sizes[n] for n, x in each.items()}
    decode_only = sum(x for name, x in each.items() if modalities[name].decode_only)
    return decode_only + sum(pairs[len(pairs) - count :]), each


def _shared_axes(config: Masking, modality: Modality) -> tuple[int, ...]:
    """The axes of a grid `(h, w, T, S)` along which all tokens are drawn as one, together with other modalities'."""
    if config.name == "space":
        return 2, 3
    return (0, 1, 3) if config.name == "time" and modality.temporal else ()


def _shares(encode_ratio: float, decode_ratio: float, count: Array) -> tuple[Array, Array]:
    """Numbers of ENCODE and DECODE tokens among `count`."""
    encode = np.rint(encode_ratio * count)
    if encode_ratio > 0:
        encode = np.maximum(encode, np.minimum(count, 1))
    return encode, np.minimum(np.rint(decode_ratio * count), count - encode)


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


def _cross(masks: Mapping[str, Int8[Array, "b _ _ _ _"]], rng: np.random.Generator) -> None:
    """Draw for each sample the (modality, band set) pairs that may be encoded, and those that may be decoded."""
    for sample in range(len(next(iter(masks.values())))):
        pairs = [mask[sample, ..., s] for mask in masks.values() for s in range(mask.shape[-1])]
        for value in (Mask.ENCODE, Mask.DECODE):
            able = [tokens for tokens in pairs if (tokens == value).any()]
            if able:
                chosen = rng.permutation(len(able))[: rng.integers(1, len(able) + 1)]
                for number in set(range(len(able))).difference(chosen.tolist()):
                    able[number][able[number] == value] = Mask.TARGET_ONLY


def _random_time_with_decode(
    config: Masking,
    modalities: Mapping[str, Modality],
    presence: Mapping[str, Bool[Array, "b _ _ _ _"]],
    rng: np.random.Generator,
) -> dict[str, Int8[Array, "b _ _ _ _"]]:
    """The masking that OlmoEarth is trained with since its version 1.1.

    All tokens of decode-only modalities are DECODE. Of the (modality, band set) pairs of the others, `encode_ratio` are
    drawn, rounded up, to be encoded, and the rest to be decoded. In half of the samples with several timesteps these
    are shared out too: `encode_ratio` of them, rounded up, at which all tokens of encoded series are ENCODE, and the
    rest, at which all tokens of decoded ones are DECODE. In the other samples, of static modalities, and of a series
    with nothing at its timesteps, `encode_ratio` of a pair's tokens are ENCODE, or `decode_ratio` DECODE, at random.
    Of a single pair some tokens are ENCODE and others DECODE, at random.
    """
    masks = {}
    for name, present_mask in presence.items():
        initial = Mask.DECODE if modalities[name].decode_only else Mask.TARGET_ONLY
        masks[name] = np.where(present_mask, initial, Mask.MISSING).astype(np.int8)
    inputs = [name for name in presence if not modalities[name].decode_only]
    for sample in range(len(next(iter(presence.values())))):
        pairs = [(n, s) for n in inputs for s in range(masks[n].shape[-1]) if presence[n][sample, ..., s].any()]
        series = [presence[name][sample].any((0, 1, 3)) for name in inputs if modalities[name].temporal]
        times = np.flatnonzero(np.logical_or.reduce(series)) if series else np.empty(0, int)
        by_time = len(times) > 1 and len(pairs) > 1 and rng.random() < TIME_SHARE
        order = rng.permutation(len(pairs))
        encoded = math.ceil(config.encode_ratio * len(pairs))
        times = rng.permutation(times)
        split = math.ceil(config.encode_ratio * len(times))
        for rank, number in enumerate(order.tolist()):
            name, s = pairs[number]
            tokens, valid_mask = masks[name][sample, ..., s], presence[name][sample, ..., s]
            value = Mask.ENCODE if rank < encoded else Mask.DECODE
            chosen = times[:split] if value == Mask.ENCODE else times[split:]
            if by_time and modalities[name].temporal and valid_mask[:, :, chosen].any():
                hidden = tokens[:, :, chosen]
                tokens[:, :, chosen] = np.where(hidden == Mask.MISSING, hidden, value)
                continue
            both = len(pairs) == 1
            encode = config.encode_ratio if both or value == Mask.ENCODE else 0.0
            decode = config.decode_ratio if both or value == Mask.DECODE else 0.0
            tokens[...] = _random(encode, decode, valid_mask[None], rng)[0]
    return masks


def _largest_pair(config: Masking, modality: Modality, grid: Grid, value: Mask) -> int:
    """The largest number of ENCODE or DECODE tokens that `random_time_with_decode` makes of one band set."""
    h, w, t, _ = grid
    if modality.decode_only:
        return h * w * t if value == Mask.DECODE else 0
    encode = value == Mask.ENCODE
    ratios = (config.encode_ratio, 0.0) if encode else (0.0, config.decode_ratio)
    at_random = int(_shares(*ratios, np.array([h * w * t]))[0 if encode else 1][0])
    if not modality.temporal or t == 1:
        return at_random
    encoded = math.ceil(config.encode_ratio * t)
    return max(at_random, h * w * (encoded if encode else t - encoded))

"""The options of how tokens are masked."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic.dataclasses import dataclass

from hybrid_patch.config.field_types import Count, Fraction, Name
from hybrid_patch.config.modality import STRICT, Modality


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Masking:
    """How tokens are hidden; those neither encoded nor decoded take no part."""

    name: Literal["random", "modality_cross_random", "space", "time", "random_time_with_decode", "none"]
    """What is hidden: `random`, tokens one by one; `modality_cross_random`, besides, each sample draws which
    (modality, band set) pairs are encoded and which decoded; `space`, places on the ground, with all their timesteps
    and band sets, in all modalities; `time`, whole images of all series, and other modalities' tokens one by
    one; `random_time_with_decode`, each sample draws which half of the (modality, band set) pairs are encoded and which
    decoded, and whether that is tokens or whole timesteps of them, and decode-only modalities are decoded whole;
    `none`, nothing."""
    encode_ratio: Fraction
    """Share of the tokens that the encoder sees."""
    decode_ratio: Fraction
    """Share of the tokens that are hidden, for the decoder to predict."""
    views: Count
    """Maskings of each sample in a step; the instance loss compares two."""
    band_dropout: dict[Name, Fraction]
    """By modality: up to this share of the bands of each band set is hidden from the encoder in training. Each sample
    draws a share up to it, and then the bands; one at least is left. Targets have all bands."""


def band_dropout_problems(masking: Masking, modalities: Mapping[str, Modality]) -> Iterator[str]:
    """A line for each modality of `masking.band_dropout` that has no bands to drop."""
    inputs = {name: modality for name, modality in modalities.items() if not modality.decode_only}
    for name, share in masking.band_dropout.items():
        key = f"masking.band_dropout.{name}={share:g}"
        if name not in inputs:
            yield f"{key}: not an input of the encoder; takes: {', '.join(inputs)}"
        elif max(map(len, inputs[name].band_sets)) == 1:
            yield f"{key}: none of its band sets has two bands; leave it out"

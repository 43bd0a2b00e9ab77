"""The options of how tokens are masked."""

from typing import Literal

from pydantic.dataclasses import dataclass

from hybrid_patch.config.field_types import Count, Fraction
from hybrid_patch.config.modality import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Masking:
    """How tokens are hidden; those neither encoded nor decoded take no part."""

    name: Literal["random", "modality_cross_random", "space", "time", "none"]
    """What is hidden: `random`, tokens one by one; `modality_cross_random`, besides, each sample draws which
    (modality, band set) pairs are encoded and which decoded; `space`, places on the ground, with all their timesteps
    and band sets, in all modalities; `time`, whole images of all series, and other modalities' tokens one by
    one; `none`, nothing."""
    encode_ratio: Fraction
    """Share of the tokens that the encoder sees."""
    decode_ratio: Fraction
    """Share of the tokens that are hidden, for the decoder to predict."""
    views: Count
    """Maskings of each sample in a step; the instance loss compares two."""

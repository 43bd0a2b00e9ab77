"""The options of how tokens are masked."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from hybrid_patch.config.field_types import Count, Fraction
from hybrid_patch.config.modality import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Masking:
    """The options that all maskings share. What is neither encoded nor decoded takes no part.

    Attributes:
        encode_ratio: share of the tokens that the encoder sees.
        decode_ratio: share of the tokens that are hidden, for the decoder to predict.
        views: maskings of each sample in a step; the instance loss compares two.
    """

    encode_ratio: Fraction
    decode_ratio: Fraction
    views: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomMasking(_Masking):
    """Tokens are hidden one by one, at random."""

    name: Literal["random"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModalityCrossRandomMasking(_Masking):
    """Random masking; besides, each sample draws which (modality, band set) pairs are encoded and which decoded."""

    name: Literal["modality_cross_random"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SpaceMasking(_Masking):
    """Places on the ground are hidden: with all their timesteps and band sets, in all modalities."""

    name: Literal["space"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TimeMasking(_Masking):
    """Timesteps are hidden: whole images of all modalities that have a series; the others' tokens one by one."""

    name: Literal["time"]


Masking = Annotated[
    RandomMasking | SpaceMasking | TimeMasking | ModalityCrossRandomMasking, Field(discriminator="name")
]

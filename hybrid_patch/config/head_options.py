"""The options of the head: what predicts labels from a pixel's embedding."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from hybrid_patch.config.field_types import Depth, Width
from hybrid_patch.config.modality import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoHead:
    """The model gives embeddings alone."""

    name: Literal["none"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LinearHead:
    """A linear map of a pixel's embedding."""

    name: Literal["linear"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ConvHead:
    """A narrow projection of a pixel's embedding, then 3 × 3 convolutions on the grid of output patches."""

    name: Literal["conv"]
    width: Width
    """Channels of the projection and of the convolutions."""
    layers: Depth
    """Convolutions, each of which sees one output patch further."""


Head = Annotated[NoHead | LinearHead | ConvHead, Field(discriminator="name")]

"""The options of the target: what tokens are compared with."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from hybrid_patch.config.field_types import Aside, Count, FolderPath, NotNegative, Seed
from hybrid_patch.config.modality import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomTarget:
    """Frozen random projections of the pixels, at the output patch size."""

    name: Literal["random"]
    seed: Seed
    """Of the projections."""
    centre: bool
    """Whether the projected values have their mean taken off first."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SelfTarget:
    """The encoder's own tokens at patch size 1, of small windows, as it was in the beginning."""

    name: Literal["self"]
    windows: Count
    """Their number, drawn from the training samples once; each is mirrored and turned at random."""
    window: Count
    """Their side, pixels."""
    numbers: Count
    """Principal components of a token that are compared, at most its width."""
    regression: NotNegative
    """Weight of the squared error; that of the contrast is `loss.visible.weight`."""
    jitter: NotNegative
    """Standard deviation, in logarithms, of the contrast that two of three windows are given anew; 0: none."""
    seed: Seed
    """Of the windows."""
    cache: Aside[FolderPath | None]
    """Folder for the tokens, which runs may share; null: in the run's own."""


Target = Annotated[RandomTarget | SelfTarget, Field(discriminator="name")]

"""The options of the target: what tokens are compared with."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from hybrid_patch.config.field_types import Amount, Aside, Count, FolderPath, NotNegative, Seed
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelTarget:
    """The labels of pixels, classes or numbers, which a head predicts: fine-tuning."""

    name: Literal["labels"]
    fraction: Annotated[float, Field(gt=0, le=1)]
    """Share of the training labels that are learned from; with one seed, a smaller share is a part of a larger."""
    fraction_of: Literal["tiles", "pixels"]
    """Whether the share is of training samples (`tiles`, at least one) or of pixels of each."""
    validate_every: Amount
    """Steps between scores on validation tiles; the finished run has the weights of the best. 0: the last weights."""
    validation_tiles: Count | None
    """Tiles that are scored, at most, spread over the validation split; null: all."""
    patience: Count | None
    """Scores in a row without a better one after which the training stops; null: never."""


Target = Annotated[RandomTarget | SelfTarget | LabelTarget, Field(discriminator="name")]

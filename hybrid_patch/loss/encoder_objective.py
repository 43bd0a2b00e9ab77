"""What objectives that compare the encoder's tokens alone have in common."""

import abc
from collections.abc import Iterable
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.crops import Crop
from hybrid_patch.loss.term import MicrobatchContext, Source, Term


class EncoderObjective(nn.Module, abc.ABC):
    """An objective of the encoder's tokens, which fits nothing to crops and keeps no sample for another.

    `frozen_targets` begins the names of what decides the targets in its state, whatever has been trained: of all.
    """

    frozen_targets: ClassVar[str] = ""

    @abc.abstractmethod
    def batch_context(self, batch: Batch, sizes: PatchSizes) -> MicrobatchContext:
        """What all microbatches of a batch must know of it."""

    @property
    def sources(self) -> set[Source]:
        """Whose tokens the terms compare."""
        return {"encoder"}

    def active_terms(self) -> list[Term]:
        """None that need more of a batch than their own microbatch."""
        return []

    def fit(self, crops: Iterable[Crop]) -> None:
        """Nothing: what must be known of the data is set by others."""

    def token_means(self) -> dict[str, Float[Tensor, " d"]]:
        """The mean tokens of modalities, where the targets are tokens."""
        return {}

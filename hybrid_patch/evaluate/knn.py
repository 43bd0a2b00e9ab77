"""The nearest neighbours as a classifier of pixels."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hybrid_patch.evaluate.standardise import Standardised
from hybrid_patch.runs.stop_signal import Check, proceed

Array = np.ndarray
NEIGHBOURS = 20
BLOCK_NUMBERS = 2**24
"""Distances that are computed together: 64 MiB of them."""


class NearestNeighbours(NamedTuple):
    """A classifier by the most frequent class of the nearest pixels of a bank; of several, the first of `classes`.

    Distances are Euclidean, of features standardised over the bank. Of pixels as far as the last neighbour, any count.

    Attributes:
        half_norm: half of each pixel's squared distance from the origin.
        truth: each pixel's class, as its number among `classes`.
    """

    standard: Standardised
    bank: Float[Tensor, "m d"]
    half_norm: Float[Tensor, " m"]
    truth: Int[Tensor, " m"]
    classes: Int[Array, " c"]
    neighbours: int

    @classmethod
    def fit(
        cls, features: Float[Array, "m d"], labels: Int[Array, " m"], neighbours: int, device: torch.device
    ) -> "NearestNeighbours":
        """All pixels are the bank, on a device; if it has fewer than `neighbours`, all vote."""
        standard = Standardised.by(features)
        bank = standard.tensor(features, device)
        classes, truth = np.unique(labels, return_inverse=True)
        numbers = torch.from_numpy(truth.reshape(-1)).to(device)
        return cls(standard, bank, bank.square().sum(1) / 2, numbers, classes, min(neighbours, len(bank)))

    def predict(self, features: Float[Array, "n d"], check: Check = proceed) -> Int[Array, " n"]:
        """The class of each pixel, in blocks, with a check before each."""
        parts = np.array_split(features, -(-len(features) * len(self.bank) // BLOCK_NUMBERS))
        return np.concatenate([self._predict_block(part, check) for part in parts])

    def _predict_block(self, features: Float[Array, "b d"], check: Check) -> Int[Array, " b"]:
        check()
        pixels = self.standard.tensor(features, self.bank.device)
        # Half of the squared distance, less the same number for all of a pixel's neighbours.
        distance = torch.addmm(self.half_norm, pixels, self.bank.T, alpha=-1)
        nearest = distance.topk(self.neighbours, largest=False, sorted=False).indices
        votes = F.one_hot(self.truth[nearest], len(self.classes)).sum(1)
        return self.classes[votes.cpu().numpy().argmax(1)]  # numpy's argmax is the first of several, torch's is any

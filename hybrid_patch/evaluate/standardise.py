"""Features standardised: of mean 0 and standard deviation 1 over the pixels that a classifier learns from."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Array = np.ndarray


class Standardised(NamedTuple):
    """The mean and the scale of each number; a constant one has the scale 1."""

    mean: Float[Array, " d"]
    scale: Float[Array, " d"]

    @classmethod
    def by(cls, features: Float[Array, "n d"]) -> "Standardised":
        scale = features.std(0, dtype=np.float64)
        return cls(features.mean(0, dtype=np.float64), np.where(scale == 0, 1, scale))

    def tensor(self, features: Float[Array, "n d"], device: torch.device) -> Float[Tensor, "n d"]:
        """Features standardised, float32 on a device."""
        return torch.from_numpy(((features - self.mean) / self.scale).astype(np.float32)).to(device)

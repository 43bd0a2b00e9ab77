"""Random features: a layer that is drawn once and never trained, and one gain that is."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

BIAS_STD = 0.5


class RandomFeatures(nn.Module):
    """`relu(x W + b)` less its mean, of numbers x that are standard normal, more or less, and directions for them.

    A linear map of enough of them is any smooth function of x (Rahimi and Recht 2008, "Weighted sums of random kitchen
    sinks"; with relu: Cho and Saul 2009, "Kernel methods for deep learning"). The columns of W are of length 1, b is
    normal with standard deviation 0.5. Each feature has its own direction in tokens D wide, orthogonal to the others'
    as far as there are so many, and all have one gain, which is trained and begins as 0. So training takes all of them
    or none: free to choose, it keeps the few directions that its targets ask for most.

    W, b and the directions are buffers: a checkpoint holds them.
    """

    def __init__(self, inputs: int, features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", F.normalize(torch.randn(inputs, features), dim=0))
        bias = BIAS_STD * torch.randn(features)
        self.register_buffer("bias", bias)
        # E relu(z + b) of a standard normal z.
        below = 0.5 * (1 + torch.erf(bias / math.sqrt(2)))
        self.register_buffer("mean", torch.exp(-(bias**2) / 2) / math.sqrt(2 * math.pi) + bias * below)
        self.register_buffer("directions", nn.init.orthogonal_(torch.empty(features, width)))
        self.gain = nn.Parameter(torch.zeros(1))  # not a scalar: FSDP2 shards none

    def forward(self, x: Float[Tensor, "*axes n"]) -> Float[Tensor, "*axes k"]:
        """The features of each."""
        return torch.relu(x @ self.get_buffer("weight") + self.get_buffer("bias")) - self.get_buffer("mean")

    def basis(self) -> Float[Tensor, "k d"]:
        """What a feature is in a token: its direction, times the gain."""
        return self.gain * self.get_buffer("directions")

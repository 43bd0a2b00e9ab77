import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

BIAS_STD = 0.5


class RandomFeatures(nn.Module):
    """`relu(x W + b)` less its mean, of roughly standard normal x, with a fixed direction for each.

    A linear map of enough of them is any smooth function of x (Rahimi and Recht 2008, "Weighted sums of random kitchen
    sinks"; with relu: Cho and Saul 2009, "Kernel methods for deep learning"). W's columns are of length 1, b is normal
    with standard deviation 0.5, directions are orthogonal up to D of them: buffers, saved in checkpoints. The one gain
    is trained from 0: with one for each feature, training keeps only the few directions that its targets reward most.
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
        return torch.relu(x @ self.get_buffer("weight") + self.get_buffer("bias")) - self.get_buffer("mean")

    def basis(self) -> Float[Tensor, "k d"]:
        """The features' directions in the token, times the gain."""
        return self.gain * self.get_buffer("directions")

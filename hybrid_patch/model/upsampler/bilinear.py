"""Upsampling by interpolation between the tokens under the mask; nothing to learn."""

from hybrid_patch.model.upsampler import TokenSpec, Upsampler


class Bilinear(Upsampler):
    """The baseline of the learned upsamplers: `fine = U(P m) / U(m)`, for any whole factor."""

    def __init__(self, tokens: TokenSpec) -> None:
        super().__init__()

from hybrid_patch.model.upsampler import TokenSpec, Upsampler


class Bilinear(Upsampler):
    """Interpolation between the tokens under the mask alone, `fine = U(P m) / U(m)`."""

    def __init__(self, tokens: TokenSpec) -> None:
        super().__init__()

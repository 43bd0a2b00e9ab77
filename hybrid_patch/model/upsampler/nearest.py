from hybrid_patch.model.upsampler import TokenSpec, Upsampler


class Nearest(Upsampler):
    """Every fine token is the coarse token of its cell: what patch size 8 says of a pixel, as a control."""

    interpolation = "nearest"

    def __init__(self, tokens: TokenSpec) -> None:
        super().__init__()

"""Means and standard deviations of the windows around pixels."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LEAST_DEVIATION = 0.01
"""In normalised values: what is below it is noise."""


TYPICAL_LOG = -3.0
"""The logarithm of a typical deviation of normalised values, which are 0.02 to 0.1."""


def log_deviation(deviation: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The logarithm of deviations of normalised values, less that of a typical one: about -1 to 1."""
    return (deviation + LEAST_DEVIATION).log() - TYPICAL_LOG


def mean_image(
    pixels: Float[Tensor, "n height width t c"], valid: Bool[Tensor, "n height width t"]
) -> tuple[Float[Tensor, "n c height width"], Bool[Tensor, "n 1 height width"]]:
    """The mean over each pixel's valid dates, zeros where it has none, and where it has one."""
    mask = valid[..., None].to(pixels.dtype)
    mean = (pixels * mask).sum(3) / mask.sum(3).clamp(min=1)
    return mean.permute(0, 3, 1, 2), valid.any(-1)[:, None]


def local_moments(
    pixels: Float[Tensor, "n c height width"], valid: Bool[Tensor, "n #c height width"], side: int
) -> tuple[Float[Tensor, "n c height width"], Float[Tensor, "n c height width"]]:
    """Mean and standard deviation of the valid pixels in the window around each pixel, inside of the image.

    Both are 0 where a window has no valid pixel. `side` is odd. A window's sum is a product with a band matrix on
    either side: exact, and at the size of crops as fast as running sums.
    """
    mask = valid.to(pixels.dtype)
    rows, columns = (_band(length, side, pixels) for length in pixels.shape[-2:])
    # Less the image's mean, so that no digits are lost where deviations are small beside the values.
    middle = (pixels * mask).sum((-2, -1), keepdim=True) / mask.sum((-2, -1), keepdim=True).clamp(min=1)
    centred = (pixels - middle) * mask
    with torch.autocast(pixels.device.type, enabled=False):
        count, mean, square = (rows @ x @ columns for x in (mask, centred, centred.square()))
    mean, square = mean / count.clamp(min=1), square / count.clamp(min=1)
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    return torch.where(count > 0, mean + middle, 0), deviation


def _band(length: int, side: int, like: Tensor) -> Float[Tensor, "length length"]:
    position = torch.arange(length, device=like.device)
    return ((position[:, None] - position).abs() <= side // 2).to(like.dtype)

"""Local means and deviations are those of the valid pixels in each window, computed one by one."""

import pytest
import torch

from hybrid_patch.data.local_statistics import local_moments


@pytest.mark.parametrize("side", [1, 5, 17, 65])
def test_windows_are_of_valid_pixels_inside_the_image(side: int) -> None:
    rng = torch.Generator().manual_seed(side)
    pixels = 100 + torch.rand(2, 3, 14, 11, generator=rng)
    valid = torch.rand(2, 1, 14, 11, generator=rng) > 0.4
    valid[1, :, :6] = False
    mean, deviation = local_moments(pixels.masked_fill(~valid, 1e4), valid, side)
    for n in range(2):
        for y in range(14):
            for x in range(11):
                rows, columns = (slice(max(i - side // 2, 0), i + side // 2 + 1) for i in (y, x))
                values = pixels[n, :, rows, columns][:, valid[n, 0, rows, columns]]
                expected = (values.mean(1), values.std(1, correction=0)) if values.numel() else torch.zeros(2, 3)
                torch.testing.assert_close(mean[n, :, y, x], expected[0], rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(deviation[n, :, y, x], expected[1], rtol=1e-3, atol=1e-3)

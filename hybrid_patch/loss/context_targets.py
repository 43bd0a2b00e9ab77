"""Targets that describe what is around a pixel, and its course over time: frozen, whitened statistics."""

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.covariance import CovarianceSum
from hybrid_patch.data.crops import Crop
from hybrid_patch.data.local_statistics import local_moments, log_deviation, mean_image
from hybrid_patch.data.patchify import patchify, repatchify

DEVIATION_SIDES, MEAN_SIDES = (5, 17, 33), (9, 33)
"""Sides, in pixels, of the windows whose deviations and means describe a pixel's surroundings."""
NUMBERS = 48
"""Principal components of the statistics, at most."""
SHRINKAGE = 0.01
"""Of their correlation matrix towards the identity: components of less variance are mostly noise."""
DAYS_OF_MONTH = 31
SAMPLES = 16
"""Whose statistics are in memory at once."""


class ContextTargets(nn.Module):
    """Per modality of the encoder, `z = (f - m) W / |(f - m) W|` of the statistics f of each output patch.

    Of the mean image over the valid dates, f has for each band the log-deviations and the means of windows around the
    pixel; of a series also the pixel's mean, log-deviation and first annual harmonic. m and the whitening W are fitted
    once, on the first crops of the training, and saved in checkpoints.
    """

    def __init__(self, modalities: Mapping[str, Modality], timesteps: int) -> None:
        super().__init__()
        self.series = {n: m.temporal and timesteps > 1 for n, m in modalities.items() if not m.decode_only}
        for name, series in self.series.items():
            numbers = modalities[name].channels * (len(DEVIATION_SIDES) + len(MEAN_SIDES) + (4 if series else 0))
            self.register_buffer(f"{name}_mean", torch.zeros(numbers))
            self.register_buffer(f"{name}_whitening", torch.eye(numbers)[:, :NUMBERS].clone())

    def widths(self) -> dict[str, int]:
        """How many numbers a target has, by modality."""
        return {name: self.get_buffer(f"{name}_whitening").shape[1] for name in self.series}

    def fit(self, crops: Iterable[Crop]) -> None:
        """Fit means and whitenings to all valid pixels of some crops; a modality without any keeps unit statistics."""
        sums = {name: CovarianceSum(len(self.get_buffer(f"{name}_mean"))) for name in self.series}
        for crop in crops:
            timestamps = torch.from_numpy(crop.timestamps)[None]
            for name, total in sums.items():
                pixels, valid = (torch.from_numpy(x[name])[None] for x in (crop.pixels, crop.valid))
                total.add(self.statistics(name, pixels, valid, timestamps)[valid.any(-1)])
        for name, total in sums.items():
            if total.count:
                mean, deviation, variance, axes = total.correlation()
                order = variance.argsort(descending=True)[:NUMBERS]
                whitening = axes[:, order] / (variance[order] + SHRINKAGE).sqrt() / deviation[:, None]
                self.get_buffer(f"{name}_mean").copy_(mean)
                self.get_buffer(f"{name}_whitening").copy_(whitening)

    @torch.no_grad()
    def forward(
        self, name: str, batch: Batch, cell: int, output: int, subpixels: Int[Tensor, " p"], averaged: bool
    ) -> Float[Tensor, "b hw p k"]:
        """Unit-length targets of some output patches of all cells of `cell` pixels, from the means of valid pixels.

        With `averaged`, from the means of these pixels' unit-length targets instead of their statistics.
        """
        targets = []
        parts = (x.split(SAMPLES) for x in (batch.pixels[name], batch.valid[name], batch.timestamps))
        for pixels, valid, timestamps in zip(*parts, strict=True):
            statistics, weight = (
                repatchify(patchify(x[:, :, :, None], cell).flatten(1, 3), output).index_select(2, subpixels)
                for x in (self.statistics(name, pixels, valid, timestamps), valid.any(-1)[..., None].to(pixels.dtype))
            )
            statistics = statistics.unflatten(-1, (output**2, -1))
            values = self._unit(name, statistics) if averaged else statistics
            mean = (values * weight[..., None]).sum(-2) / weight.sum(-1, keepdim=True).clamp(min=1)
            targets.append(F.normalize(mean, dim=-1) if averaged else self._unit(name, mean))
        return torch.cat(targets)

    def _unit(self, name: str, statistics: Float[Tensor, "*n f"]) -> Float[Tensor, "*n k"]:
        centred = statistics - self.get_buffer(f"{name}_mean")
        return F.normalize(centred @ self.get_buffer(f"{name}_whitening"), dim=-1)

    def statistics(
        self,
        name: str,
        pixels: Float[Tensor, "b height width t c"],
        valid: Bool[Tensor, "b height width t"],
        timestamps: Int[Tensor, "b _ 3"],  # of the sample: as many as t, unless the modality is static
    ) -> Float[Tensor, "b height width f"]:
        """The statistics of every pixel, neither centred nor whitened."""
        image, any_valid = mean_image(pixels, valid)
        moments = {side: local_moments(image, any_valid, side) for side in {*DEVIATION_SIDES, *MEAN_SIDES}}
        deviations = [log_deviation(moments[side][1]) for side in DEVIATION_SIDES]
        means = [moments[side][0] for side in MEAN_SIDES]
        surroundings = rearrange(torch.cat([*deviations, *means], dim=1), "b c h w -> b h w c")
        if not self.series[name]:
            return surroundings
        mask, mean = valid[..., None].to(pixels.dtype), rearrange(image, "b c h w -> b h w c")
        count = mask.sum(3).clamp(min=1)
        centred = (pixels - mean[..., None, :]) * mask
        deviation = (centred.square().sum(3) / count).sqrt()
        angle = 2 * math.pi * (timestamps[..., 1] + timestamps[..., 0] / DAYS_OF_MONTH) / 12
        harmonics = [torch.einsum("bhwtc,bt->bhwc", centred, x) * 2 / count for x in (angle.cos(), angle.sin())]
        return torch.cat([surroundings, mean, log_deviation(deviation), *harmonics], dim=-1)

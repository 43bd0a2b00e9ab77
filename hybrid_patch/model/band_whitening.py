"""Bands as the model sees them: less correlated with each other."""

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hybrid_patch.config.modality import NORMALISED_MEAN, NORMALISED_STD, Modality
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.covariance import CovarianceSum
from hybrid_patch.data.crops import Crop

EXPONENT = -0.25
"""Of the correlation matrix."""
SHRINKAGE = 0.01
"""Of the correlation matrix towards the identity: directions of less variance are mostly noise."""


class BandWhitening(nn.Module):
    """Whitens the bands of each band set halfway, `y = 1/2 + (x - m) / s C^(-1/4) / 4`.

    Bands of one image are mostly its brightness; what tells materials apart is small beside it. With C^(-1/2) all
    directions would have one scale, and sensor noise with them; here each has the square root of what it had. m, s and
    C are the means, deviations and correlations of valid pixels, C slightly shrunk. The matrix is the symmetric one, as
    in ZCA-cor whitening (Kessy et al. 2018, "Optimal whitening and decorrelation"): bands change least, and no order or
    sign of eigenvectors matters. It is fitted once, on the first crops of the training, and saved in checkpoints;
    before, y is x. Categorical modalities stay as they are.
    """

    def __init__(self, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        self.band_sets = {n: m.band_set_channels for n, m in modalities.items() if m.kind == "continuous"}
        for name in self.band_sets:
            channels = modalities[name].channels
            self.register_buffer(f"{name}_mean", torch.full((channels,), NORMALISED_MEAN))
            self.register_buffer(f"{name}_matrix", torch.eye(channels) / NORMALISED_STD)

    @property
    def is_fitted(self) -> bool:
        """Whether a matrix is another than in the beginning: fitted here, or loaded."""
        unit = {name: torch.eye(len(self.get_buffer(f"{name}_mean"))) / NORMALISED_STD for name in self.band_sets}
        return any(not torch.equal(self.get_buffer(f"{name}_matrix").cpu(), eye) for name, eye in unit.items())

    def fit(self, crops: Iterable[Crop]) -> None:
        """Fit to all valid pixels of some crops; a modality without any stays as it is."""
        sums = {
            name: [CovarianceSum(len(channels)) for channels in band_sets] for name, band_sets in self.band_sets.items()
        }
        for crop in crops:
            for name, totals in sums.items():
                pixels = torch.from_numpy(crop.pixels[name][crop.valid[name]])
                for channels, total in zip(self.band_sets[name], totals, strict=True):
                    total.add(pixels[:, list(channels)])
        for name, totals in sums.items():
            mean, matrix = self.get_buffer(f"{name}_mean"), self.get_buffer(f"{name}_matrix")
            for channels, total in zip(self.band_sets[name], totals, strict=True):
                if total.count:
                    chosen = torch.tensor(channels)
                    centre, deviation, variance, axes = total.correlation()
                    whitening = (axes * (variance + SHRINKAGE).pow(EXPONENT)) @ axes.mT / deviation[:, None]
                    mean[chosen] = centre.to(mean.dtype)
                    matrix[chosen[:, None], chosen] = whitening.to(matrix.dtype)

    def batch(self, batch: Batch) -> Batch:
        """A batch with whitened pixels, and inputs where bands are dropped."""
        pixels = {name: self.pixels(name, pixels, batch.valid[name]) for name, pixels in batch.pixels.items()}
        inputs = {
            name: self.pixels(name, batch.pixels[name], batch.valid[name], mask[:, None, None, None])
            for name, mask in batch.band_mask.items()
        }
        return dataclasses.replace(batch, pixels=pixels, inputs=inputs)

    def crop(self, crop: Crop) -> Crop:
        """A crop with whitened pixels."""
        pixels = {
            name: self.pixels(name, torch.from_numpy(pixels), torch.from_numpy(crop.valid[name])).numpy()
            for name, pixels in crop.pixels.items()
        }
        return dataclasses.replace(crop, pixels=pixels)

    def pixels(
        self,
        name: str,
        pixels: Float[Tensor, "*axes c"],
        valid: Bool[Tensor, "*axes"],
        band_mask: Bool[Tensor, "*#axes c"] | None = None,
    ) -> Float[Tensor, "*axes c"]:
        """Normalised pixels of a modality, whitened; zeros where missing.

        Bands that a mask drops are zeros too, and leave no trace in the others: there they count as their means.
        """
        if name not in self.band_sets:
            return pixels
        with torch.autocast(pixels.device.type, enabled=False):
            centred = pixels - self.get_buffer(f"{name}_mean")
            if band_mask is not None:
                centred = centred * band_mask
            whitened = centred @ self.get_buffer(f"{name}_matrix")
        visible = valid[..., None] if band_mask is None else valid[..., None] & band_mask
        return torch.where(visible, NORMALISED_MEAN + NORMALISED_STD * whitened, 0)

"""A trained encoder as a module of torch: images in, a map of features for every pixel out, with gradients."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hybrid_patch.config.modality import NORMALISED_MEAN, NORMALISED_STD, Modality
from hybrid_patch.data.batch import Batch, MaskedTokens, QuerySampling, by_role
from hybrid_patch.data.masking import Mask
from hybrid_patch.data.packing import everything
from hybrid_patch.data.patchify import patchify
from hybrid_patch.data.source import timestamps_of
from hybrid_patch.embed.trained_model import TrainedModel, load, parse_date
from hybrid_patch.errors import InputError
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.pooling import mean

Dates = Sequence[datetime.date | str] | Int[Tensor, "b t 3"]
"""The same for all samples, or day, month (0-11) and year of each."""


class PixelEncoder(nn.Module):
    """The encoder and its upsampler: `{modality: [B, T, C, H, W]}` in the units of the training → `[B, D, H, W]`.

    A pixel's features are the mean of its tokens over modalities, timesteps and band sets, zeros where it has none.
    Images are one window each, with attention over all of it: of about `side` pixels, as in the training. Sides that
    the patch size does not divide are filled up with missing pixels. NaN is missing, and any modality may be left out.
    With `complete`, nothing is: then no shape depends on the values, which `torch.export` needs.
    """

    def __init__(self, model: TrainedModel, complete: bool = False) -> None:
        super().__init__()
        self.modalities: dict[str, Modality] = {name: model.modalities[name] for name in model.inputs}
        self.sizes, self.side, self.complete = model.sizes, model.side, complete
        self.width = model.config.model.encoder.width
        self.network = model.network
        self.classes = model.classes
        for name, modality in self.modalities.items():
            statistics = torch.tensor([modality.mean, modality.std], dtype=torch.float32)
            self.register_buffer(f"{name}_statistics", statistics, persistent=False)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> "PixelEncoder":
        """Of a run, or of an exported model; see `hybrid_patch.load`."""
        return cls(load(folder, device))

    def forward(self, images: Mapping[str, Float[Tensor, "b _ _ h w"]], dates: Dates = ()) -> Float[Tensor, "b d h w"]:
        """Raises InputError for images that do not fit the model."""
        self._check(images, dates)
        height, width = next(iter(images.values())).shape[-2:]
        tokens = self.network.fine_tokens(self._batch(images, dates), self.sizes)
        fine = rearrange(repeat_cells(mean(tokens, None), self.sizes.output), "b h w d -> b d h w")
        return fine[..., :height, :width]

    def predict(self, images: Mapping[str, Float[Tensor, "b _ _ h w"]], dates: Dates = ()) -> Float[Tensor, "b k h w"]:
        """The labels of pixels, by the head of a fine-tuned model: probabilities of `classes`, or one number.

        Raises InputError for images that do not fit the model, or without a head.
        """
        if self.network.head is None:
            raise InputError("predict: the model has no head; hybrid-patch finetune trains one")
        self._check(images, dates)
        height, width = next(iter(images.values())).shape[-2:]
        predicted = self.network.predictions(self._batch(images, dates), self.sizes)
        return rearrange(predicted, "b h w k -> b k h w")[..., :height, :width]

    def _batch(self, images: Mapping[str, Float[Tensor, "b _ _ h w"]], dates: Dates) -> Batch:
        """The images as a batch in which every token with data is encoded; modalities that are left out have none."""
        first = next(iter(images.values()))
        b, device, patch_size = len(first), first.device, self.sizes.processing
        height, width = (-(-side // patch_size) * patch_size for side in first.shape[-2:])
        timestamps = dates if isinstance(dates, Tensor) else self._timestamps(dates, b)
        pixels, valid, masks = {}, {}, {}
        for name, modality in self.modalities.items():
            t = timestamps.shape[1] if modality.temporal else 1
            if name in images:
                pixels[name], valid[name] = self._normalised(name, images[name], height, width)
            elif self.complete:
                raise InputError(f"images: {name}: left out, but the encoder was built with complete=True")
            else:
                pixels[name] = first.new_zeros(b, height, width, t, modality.channels)
                valid[name] = torch.zeros(b, height, width, t, dtype=torch.bool, device=device)
            visible = patchify(valid[name], patch_size).flatten(4).any(-1)
            mask = torch.where(visible, int(Mask.ENCODE), int(Mask.MISSING)).to(torch.int8)
            masks[name] = mask[..., None].expand(*mask.shape, len(modality.band_sets)).contiguous()
        if self.complete:
            each = {name: everything(b, mask[0].numel(), device) for name, mask in masks.items()}
            together = everything(b, sum(packing.length for packing in each.values()), device)
            encoded = decoded = MaskedTokens(together, each)
        else:
            encoded, decoded = by_role(masks, list(masks))
        sampling = QuerySampling(torch.zeros(0, dtype=torch.long, device=device), torch.zeros(0, device=device))
        return Batch(pixels, valid, timestamps.to(device), masks, encoded, decoded, sampling)

    def _normalised(
        self, name: str, image: Float[Tensor, "b t c h w"], height: int, width: int
    ) -> tuple[Float[Tensor, "b height width t c"], Bool[Tensor, "b height width t"]]:
        """Normalised pixels, filled up, zeros where missing, and which are valid."""
        mean, std = self.get_buffer(f"{name}_statistics")
        values = rearrange(image.float(), "b t c h w -> b h w t c")
        values = (values - mean) / std * NORMALISED_STD + NORMALISED_MEAN
        missing = (0, 0, 0, 0, 0, width - values.shape[2], 0, height - values.shape[1])
        if self.complete:
            valid = torch.ones_like(values[..., 0], dtype=torch.bool)
            return F.pad(values, missing), F.pad(valid, missing[2:], value=True)
        valid = values.isfinite().all(-1)
        values = torch.where(valid[..., None], values, 0)
        return F.pad(values, missing), F.pad(valid, missing[2:])

    def _timestamps(self, dates: Sequence[datetime.date | str], samples: int) -> Int[Tensor, "b t 3"]:
        stamps = torch.from_numpy(timestamps_of([parse_date(date) for date in dates]))
        return stamps.expand(samples, -1, -1)

    def _check(self, images: Mapping[str, Tensor], dates: Dates) -> None:
        expected = ", ".join(self.modalities)
        if not images:
            raise InputError(f"images: none; the encoder takes: {expected}")
        t = dates.shape[1] if isinstance(dates, Tensor) else len(dates)
        first = next(iter(images.values()))
        for name, image in images.items():
            if name not in self.modalities:
                raise InputError(f"images: {name}: unknown modality; the encoder takes: {expected}")
            modality = self.modalities[name]
            if modality.temporal and t == 0:
                raise InputError(f"dates: none given, but {name} has a timestep for each date")
            wanted = (len(first), t if modality.temporal else 1, len(modality.bands), *first.shape[-2:])
            if image.shape != wanted:
                raise InputError(f"images: {name}: {tuple(image.shape)} for B, T, C, H, W; must be {wanted}")

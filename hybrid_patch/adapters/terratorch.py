"""The encoder in TerraTorch's registry of backbones (https://github.com/terrastackai/terratorch), as `hybrid_patch`."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

from hybrid_patch.data.source import timestamps_of
from hybrid_patch.embed.pixel_encoder import PixelEncoder
from hybrid_patch.errors import InputError


class Backbone(nn.Module):
    """An encoder whose only feature map is as fine as the image.

    Images are in the units of the training: a datamodule's means of 0 and deviations of 1.
    """

    def __init__(self, encoder: PixelEncoder, modality: str | None, dates: Sequence[str]) -> None:
        super().__init__()
        self.pixel_encoder, self.modality, self.dates = encoder, modality, list(dates)
        self.out_channels = [encoder.width]

    def forward(
        self, images: Tensor | Mapping[str, Tensor], temporal_coords: Tensor | None = None, **metadata: Any
    ) -> list[Float[Tensor, "b d h w"]]:
        """Features of an image, or of images by modality: `[B, C, H, W]`, or `[B, C, T, H, W]` of a series.

        `temporal_coords` `[B, T, 2]`, years and days of the year from 0, come before the backbone's own dates; other
        metadata have no effect. Raises InputError for images that do not fit the encoder.
        """
        if isinstance(images, Tensor):
            if self.modality is None:
                names = ", ".join(self.pixel_encoder.modalities)
                raise InputError(f"images: not in a dict, and the encoder takes {names}; give backbone_modality=NAME")
            images = {self.modality: images}
        dates = self.dates if temporal_coords is None else timestamps(temporal_coords)
        return [self.pixel_encoder({name: series(image) for name, image in images.items()}, dates)]


def series(image: Tensor) -> Float[Tensor, "b t c h w"]:
    """An image, or TerraTorch's series of images, in the encoder's order of axes."""
    return image[:, None] if image.ndim == 4 else image.transpose(1, 2)


def timestamps(coords: Float[Tensor, "b t 2"]) -> Int[Tensor, "b t 3"]:
    """Day, month (0 to 11) and year, of years and days of the year from 0."""
    dates = [
        [datetime.date(int(year), 1, 1) + datetime.timedelta(days=int(day)) for year, day in sample]
        for sample in coords.tolist()
    ]
    return torch.stack([torch.from_numpy(timestamps_of(sample)) for sample in dates])


@TERRATORCH_BACKBONE_REGISTRY.register
def hybrid_patch(model: str, modality: str | None = None, dates: Sequence[str] = (), **options: Any) -> Backbone:
    """The backbone `hybrid_patch`, for `EncoderDecoderFactory` and TerraTorch's configs.

    Args:
        model: the folder of a run or of an exported model, or `hf://owner/name`.
        modality: of images that are not in a dict; by default the encoder's only one.
        dates: of the timesteps of all samples, like `2024-05-31`, where a dataset gives no `temporal_coords`.
        options: TerraTorch's `pretrained` alone: the weights are those of the model.

    Raises InputError.
    """
    if unknown := options.keys() - {"pretrained"}:
        raise InputError(f"backbone_{min(unknown)}: unknown; hybrid_patch takes: model, modality, dates")
    encoder = PixelEncoder.load(model, "cpu")  # TerraTorch moves it
    if modality is None and len(encoder.modalities) == 1:
        (modality,) = encoder.modalities
    return Backbone(encoder, modality, dates)

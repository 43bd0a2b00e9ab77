"""The encoder as a feature extractor of rslearn (https://github.com/allenai/rslearn), for its models and configs."""

from collections.abc import Mapping
from datetime import datetime

import torch
from jaxtyping import Float, Int
from rslearn.models.component import FeatureExtractor, FeatureMaps
from rslearn.train.model_context import ModelContext, RasterImage
from torch import Tensor

from hybrid_patch.data.source import timestamps_of
from hybrid_patch.embed.pixel_encoder import PixelEncoder
from hybrid_patch.errors import InputError


class HybridPatch(FeatureExtractor):
    """A run or an exported model: one map of features, as fine as the images, of a sample's rasters.

    Rasters are in the units of the training: without rslearn's `Normalize`. An image's date is the middle of its time
    range. All temporal inputs of a sample have the same timesteps.

    Args:
        model: the folder, or `hf://owner/name`.
        inputs: the key of a sample's inputs for each modality of the encoder; by default the modality's name.
        nodata: pixels with this value in all bands are missing, as NaN is; None: none.
    """

    def __init__(self, model: str, inputs: Mapping[str, str] | None = None, nodata: float | int | None = None) -> None:
        super().__init__()
        self.encoder = PixelEncoder.load(model, "cpu")  # rslearn moves it
        self.inputs = dict(inputs or {name: name for name in self.encoder.modalities})
        self.nodata = nodata

    def forward(self, context: ModelContext) -> FeatureMaps:
        """Raises InputError for inputs that do not fit the encoder."""
        samples = context.inputs
        keys = {name: key for name, key in self.inputs.items() if key in samples[0]}
        if not keys:
            given, wanted = ", ".join(samples[0]), ", ".join(self.inputs.values())
            raise InputError(f"inputs: {given}: the encoder takes: {wanted}; give inputs={{MODALITY: KEY}}")
        rasters = {name: [raster(sample, key) for sample in samples] for name, key in keys.items()}
        images = {name: self._image([each.image for each in of_all]) for name, of_all in rasters.items()}
        modalities = self.encoder.modalities
        series = next((name for name in keys if name in modalities and modalities[name].temporal), None)
        if series is None:
            dates = torch.from_numpy(timestamps_of([])).expand(len(samples), -1, -1)
        else:
            dates = torch.stack([timestamps(each, keys[series]) for each in rasters[series]])
        return FeatureMaps([self.encoder(images, dates)])

    def get_backbone_channels(self) -> list[tuple[int, int]]:
        """The downsampling factor and the width of each feature map, as rslearn's decoders ask."""
        return [(1, self.encoder.width)]

    def _image(self, samples: list[Float[Tensor, "c t h w"]]) -> Float[Tensor, "b t c h w"]:
        image = torch.stack(samples).transpose(1, 2).float()
        if self.nodata is None:
            return image
        return image.masked_fill((image == self.nodata).all(2, keepdim=True), torch.nan)


def raster(sample: Mapping[str, Tensor | RasterImage], key: str) -> RasterImage:
    """An input of a sample. Raises InputError if it is absent, or no raster."""
    value = sample.get(key)
    if not isinstance(value, RasterImage):
        reason = "absent in a sample of the batch" if value is None else "not a raster image"
        raise InputError(f"inputs.{key}: {reason}; declare it with data_type: raster, for all samples")
    return value


def timestamps(image: RasterImage, key: str) -> Int[Tensor, "t 3"]:
    """Day, month (0 to 11) and year of the middle of each time range. Raises InputError for a raster without any."""
    if image.timestamps is None:
        raise InputError(f"inputs.{key}: has no timestamps, which the encoder needs")
    return torch.from_numpy(timestamps_of([middle(start, end).date() for start, end in image.timestamps]))


def middle(start: datetime, end: datetime) -> datetime:
    return start + (end - start) / 2

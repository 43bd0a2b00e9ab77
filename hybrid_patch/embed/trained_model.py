"""A trained run or an exported model, ready to embed: `hybrid_patch.load("<folder>")`, then `.embed(...)`."""

import dataclasses
import datetime
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

from hybrid_patch.config.compose import frozen_config, held_to_schema
from hybrid_patch.config.curriculum import PatchSizes, sizes_after, tile_for
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sources import Sources
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.crops import Crop, crop_of
from hybrid_patch.data.source import Sample, Window, timestamps_of
from hybrid_patch.embed.per_pixel import Pooling, unmasked_batch
from hybrid_patch.embed.windows import Blender, Tiling
from hybrid_patch.errors import InputError
from hybrid_patch.model.hybrid import HybridModel, build_model
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.pooling import Projection, concatenated, mean
from hybrid_patch.model.pretrained import read_exported
from hybrid_patch.runs.checkpoints import first_difference, newest_checkpoint
from hybrid_patch.runs.directory import CHECKPOINTS
from hybrid_patch.runs.exported import CONFIG, DESCRIBED_OF, is_exported, local_folder, read_part
from hybrid_patch.runs.stop_signal import Check, proceed

Array = np.ndarray
WINDOWS = 16
"""Windows that go through the encoder together."""


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model: its run's directory and config, and the network in evaluation mode, on its device.

    `modalities` have the statistics that normalise values; `sizes` are those of `step`, the last that was trained.
    """

    run: Path
    config: Config
    modalities: Mapping[str, Modality]
    sizes: PatchSizes
    step: int
    network: HybridModel

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def side(self) -> int:
        """The side, in pixels, of the crops that it was trained on, and of the windows that it embeds."""
        return tile_for(self.config, self.sizes)

    @property
    def inputs(self) -> list[str]:
        return [name for name, modality in self.modalities.items() if not modality.decode_only]

    def tiling(self, overlap: int | None = None) -> Tiling:
        """Windows of the training's side; they overlap by a quarter of it unless `overlap` is given."""
        overlap = self.side // 4 if overlap is None else overlap
        return Tiling.overlapping(self.side, overlap, self.sizes.processing)

    @torch.no_grad()
    def embed_crops(
        self,
        crops: Sequence[Crop],
        pooling: Pooling = "mean",
        projection: Projection | None = None,
        absent: Mapping[str, Collection[int]] | None = None,
        repeat: bool = True,
    ) -> Float[Tensor, "n height width d"]:
        """Embed every pixel of windows: `[N, H, W, D]`, its fine tokens pooled; float32, on the CPU.

        At an output patch size above 1, the pixels of a patch share its token. Pixels without tokens are zeros, and so
        are missing tokens in a concatenation (`[N, H, W, modalities T S D]`).

        Args:
            projection: of the mean; with `concat` it raises ValueError.
            absent: per modality, the numbers of its missing band sets.
            repeat: False for one row and column per output patch instead of per pixel.
        """
        if projection is not None and pooling != "mean":
            raise ValueError(f"pooling={pooling}: only a mean can be projected")
        tokens = self.network.fine_tokens(self._batch(crops, absent or {}), self.sizes)
        pooled = concatenated(tokens) if pooling == "concat" else mean(tokens, projection)
        return repeat_cells(pooled, self.sizes.output if repeat else 1).float().cpu()

    def _batch(self, crops: Sequence[Crop], absent: Mapping[str, Collection[int]]) -> Batch:
        batch = unmasked_batch(crops, self.sizes.processing, self.modalities, absent)
        return batch.map(lambda x: x.to(self.device))

    @property
    def classes(self) -> tuple[str, ...]:
        """What its head predicts; none if that is a number, or if it has no head."""
        return self.network.classes

    def predict(
        self,
        images: Mapping[str, Float[Array, "h w _ _"]],
        dates: Sequence[datetime.date | str] = (),
        overlap: int | None = None,
    ) -> Float[Array, "h w k"]:
        """Predict the labels of an image of any size, by a fine-tuned model; the arguments are those of `embed`.

        `[H, W, classes]` probabilities, as `classes` names them, or `[H, W, 1]` a number in the unit of the labels; NaN
        where there is no data. Raises InputError.
        """
        if self.network.head is None:
            raise InputError(f"run={self.run}: has no head; hybrid-patch finetune trains one")
        whole = self._whole(images, dates)
        predicted = self.predict_whole(whole, self.tiling(overlap))
        predicted[~whole.any_valid(self.inputs)] = np.nan
        return predicted

    def predict_whole(self, whole: Crop, tiling: Tiling, check: Check = proceed) -> Float[Array, "h w k"]:
        """Predict the labels of an image in memory, in windows; meaningless where there is no data."""

        @torch.no_grad()
        def predict(crops: Sequence[Crop]) -> Float[Tensor, "n side side k"]:
            return self.network.predictions(self._batch(crops, {}), self.sizes).cpu()

        return self._in_windows(whole, tiling, predict, check)

    def embed(
        self,
        images: Mapping[str, Float[Array, "h w _ _"]],
        dates: Sequence[datetime.date | str] = (),
        pooling: Pooling = "mean",
        overlap: int | None = None,
    ) -> Float[Array, "h w d"]:
        """Embed an image of any size: `[H, W, D]` float32, NaN where there is no data. Raises InputError.

        Args:
            images: per modality `[H, W, T, C]`, in the units that the run was trained on (no normalisation), bands as
                in `modalities[name].bands`, NaN where missing. Static modalities have T = 1. Any may be left out.
            dates: of the T timesteps, `datetime.date` or "2024-05-31"; not needed for static modalities.
            pooling: over modalities, timesteps and band sets: `mean`, or `concat` (D is the width times their number).
            overlap: pixels that neighbouring windows share; default: a quarter of the training's tile.
        """
        whole = self._whole(images, dates)
        embedding = self.embed_whole(whole, self.tiling(overlap), pooling)
        embedding[~whole.any_valid(self.inputs)] = np.nan
        return embedding

    def _whole(self, images: Mapping[str, Float[Array, "h w _ _"]], dates: Sequence[datetime.date | str]) -> Crop:
        """Images as one crop, normalised. Raises InputError if they do not fit the model."""
        height, width = self._check_images(images, dates)
        timestamps = timestamps_of([parse_date(date) for date in dates])
        given = {name: image for name, image in images.items() if name in self.inputs}
        sample = Sample(given, {name: np.isfinite(image).all(-1) for name, image in given.items()}, timestamps)
        return crop_of(sample, self.modalities, Window(0, 0, height, width), len(timestamps))

    def embed_whole(
        self, whole: Crop, tiling: Tiling, pooling: Pooling = "mean", check: Check = proceed
    ) -> Float[Array, "h w d"]:
        """Embed an image in memory, in windows; zeros where there is no data."""
        return self._in_windows(whole, tiling, lambda crops: self.embed_crops(crops, pooling), check)

    def _in_windows(
        self,
        whole: Crop,
        tiling: Tiling,
        of_crops: Callable[[Sequence[Crop]], Float[Tensor, "n side side d"]],
        check: Check,
    ) -> Float[Array, "h w d"]:
        """Values of the pixels of an image in memory, from those of windows, which are blended."""
        height, width = next(iter(whole.valid.values())).shape[:2]
        side, lefts = tiling.side, tiling.starts(width)
        blender = Blender(height, tiling, lefts)

        def row(top: int) -> Iterator[Float[Tensor, "n side side d"]]:
            for start in range(0, len(lefts), WINDOWS):
                check()
                crops = [whole.window(Window(top, left, side, side)) for left in lefts[start : start + WINDOWS]]
                yield of_crops(crops)

        return torch.cat([blender.add(top, row(top))[:, :width] for top in tiling.starts(height)]).numpy()

    def _check_images(self, images: Mapping[str, Float[Array, "h w _ _"]], dates: Sequence[object]) -> tuple[int, int]:
        """Height and width of the images; raises InputError if they do not fit the model."""
        inputs = [name for name in images if name in self.inputs]
        if not inputs:
            raise InputError(f"images: {list(images)}: none that the run knows; takes: {', '.join(self.inputs)}")
        height, width = images[inputs[0]].shape[:2]
        for name, image in images.items():
            if name not in self.modalities:
                raise InputError(f"images: {name}: unknown modality; the run knows: {', '.join(self.modalities)}")
            modality = self.modalities[name]
            expected = (height, width, max(len(dates), 1) if modality.temporal else 1, len(modality.bands))
            if image.shape != expected:
                raise InputError(f"images: {name}: {image.shape} for height, width, dates, bands; must be {expected}")
        if not dates and any(self.modalities[name].temporal for name in images):
            raise InputError("dates: none given, but there is a modality with a timestep for each date")
        return height, width


def load(run: str | Path, device: str = "auto") -> TrainedModel:
    """Load the model of a run from its newest checkpoint, or an exported one, without running code from the file.

    An exported model may be on a hub: `hf://owner/name`. The device `auto` is a GPU if there is one. Raises InputError
    if there is no run, no checkpoint of it, or only one that another version of the model saved.
    """
    folder = local_folder(run)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if is_exported(folder):
        return _load_exported(folder, where)
    config = frozen_config(folder)
    checkpoint = newest_checkpoint(folder / CHECKPOINTS)
    if checkpoint is None:
        raise InputError(f"run={folder}: no checkpoint yet; its end writes one, and before it trainer.checkpoint_every")
    modalities = {name: Modality(**fields) for name, fields in checkpoint.state["modalities"].items()}
    network = build_model(config, modalities, checkpoint.state["classes"])
    checkpoint.refuse_other_weights("model", network.state_dict())
    network.load_state_dict(checkpoint.state["model"])
    sizes = sizes_after(config, checkpoint.step)
    return TrainedModel(folder, config, modalities, sizes, checkpoint.step, network.eval().to(where))


def _load_exported(folder: Path, device: str) -> TrainedModel:
    """The model of an exported folder; its decoder, which only serves training, is at random."""
    described, (weights, modalities) = read_part(folder / CONFIG, DESCRIBED_OF), read_exported(folder)
    config = held_to_schema(OmegaConf.create(described["config"]), Sources())
    network = build_model(config, modalities, described["classes"])
    expected = {name: x for name, x in network.state_dict().items() if not name.startswith("decoder")}
    if different := first_difference(expected, weights):
        raise InputError(f"{folder}: exported by another version of hybrid_patch ({different}); use that version")
    network.load_state_dict(weights, strict=False)
    step = described["step"]
    return TrainedModel(folder, config, modalities, sizes_after(config, step), step, network.eval().to(device))


def parse_date(value: datetime.date | str) -> datetime.date:
    """A date from how it is written. Raises InputError."""
    if isinstance(value, datetime.date):
        return value
    try:
        return datetime.date.fromisoformat(value)
    except ValueError:
        raise InputError(f"dates: {value!r}: not a date; write it as 2024-05-31") from None

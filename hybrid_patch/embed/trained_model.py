"""A trained run, ready to embed: `model = hybrid_patch.load("<run dir>")`, then `model.embed(...)`."""

import dataclasses
import datetime
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.config.compose import frozen_config
from hybrid_patch.config.curriculum import PatchSizes, sizes_after, tile_for
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.data.crops import Crop
from hybrid_patch.data.source import Window
from hybrid_patch.embed.per_pixel import Pooling, Projection, embed
from hybrid_patch.embed.windows import Tiling, blended
from hybrid_patch.errors import InputError
from hybrid_patch.model.hybrid import HybridModel, build_model
from hybrid_patch.runs.checkpoints import newest_checkpoint
from hybrid_patch.runs.directory import CHECKPOINTS

Array = np.ndarray
WINDOWS = 16
"""Windows that go through the encoder together."""


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model, with its config and modalities.

    Attributes:
        run: the run's directory.
        config: of the run.
        modalities: with the statistics that normalise their values.
        sizes: the patch sizes of the training's last step.
        step: the training step after which the weights were saved.
        network: in evaluation mode, on its device.
    """

    run: Path
    config: Config
    modalities: Mapping[str, Modality]
    sizes: PatchSizes
    step: int
    network: HybridModel

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    @property
    def side(self) -> int:
        """The side, in pixels, of the crops that it was trained on, and of the windows that it embeds."""
        return tile_for(self.config, self.sizes)

    @property
    def inputs(self) -> list[str]:
        """The modalities that the encoder sees."""
        return [name for name, modality in self.modalities.items() if not modality.decode_only]

    def tiling(self, overlap: int | None = None) -> Tiling:
        """Windows of the training's side; they overlap by a quarter of it unless `overlap` is given."""
        side = self.side
        return Tiling.overlapping(side, side // 4 if overlap is None else overlap, self.sizes.processing)

    def embed_crops(
        self,
        crops: Sequence[Crop],
        pooling: Pooling = "mean",
        projection: Projection | None = None,
        absent: Mapping[str, Collection[int]] | None = None,
        repeat: bool = True,
    ) -> Float[Tensor, "n height width d"]:
        """Embeddings of windows; see `hybrid_patch.embed.per_pixel.embed`."""
        return embed(self.network, crops, self.sizes, self.modalities, self.device, pooling, projection, absent, repeat)

    def embed(
        self,
        images: Mapping[str, Float[Array, "h w _ _"]],
        dates: Sequence[datetime.date | str] = (),
        pooling: Pooling = "mean",
        overlap: int | None = None,
    ) -> Float[Array, "h w d"]:
        """Embed an image of any size: `[H, W, D]` float32, NaN where there is no data.

        Args:
            images: per modality `[H, W, T, C]`, in the units that the run was trained on (no normalisation), bands as
                in `modalities[name].bands`, NaN where missing. Static modalities have T = 1. Any may be left out.
            dates: of the T timesteps, `datetime.date` or "2024-05-31"; not needed for static modalities.
            pooling: over modalities, timesteps and band sets: `mean` (D is the model's width) or `concat` (D is that
                width times their number).
            overlap: pixels that neighbouring windows share; default: a quarter of the training's tile.

        Raises InputError for a modality or shape that does not fit.
        """
        height, width = self._check_images(images, dates)
        tiling = self.tiling(overlap)
        timestamps = np.array([[d.day, d.month - 1, d.year] for d in map(_date, dates)] or [[1, 0, 1970]], np.int64)
        pixels, valid = {}, {}
        for name, modality in self.modalities.items():
            shape = (height, width, len(timestamps) if modality.temporal else 1)
            pixels[name], valid[name] = np.zeros((*shape, modality.channels), np.float32), np.zeros(shape, bool)
            if name in images and name in self.inputs:
                pixels[name], valid[name] = modality.normalise(images[name], np.isfinite(images[name]).all(-1))
        whole = Crop(pixels, valid, timestamps, None)
        embedding = self.embed_whole(whole, tiling, pooling)
        embedding[~whole.any_valid(self.inputs)] = np.nan
        return embedding

    def embed_whole(self, whole: Crop, tiling: Tiling, pooling: Pooling = "mean") -> Float[Array, "h w d"]:
        """Embed an image in memory, in windows; zeros where there is no data."""
        height, width = next(iter(whole.valid.values())).shape[:2]

        def embed(top: int, lefts: list[int]) -> Float[Tensor, "n side side d"]:
            crops = [whole.window(Window(top, left, tiling.side, tiling.side)) for left in lefts]
            return self.embed_crops(crops, pooling).float().cpu()

        return torch.cat(list(blended(height, width, tiling, embed, WINDOWS))).numpy()

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
                raise InputError(
                    f"images: {name}: shape {image.shape}; must be {expected}: height, width, dates, bands"
                )
        if not dates and any(self.modalities[name].temporal for name in images):
            raise InputError("dates: none given, but there is a modality with a timestep for each date")
        return height, width


def load(run: str | Path, device: str = "auto") -> TrainedModel:
    """Load the model of a run from its newest checkpoint, without running code from the checkpoint.

    Args:
        device: `cpu`, `cuda`, or `auto`: a GPU if there is one.

    Raises InputError if there is no run, or no checkpoint of it.
    """
    folder = Path(run)
    config = frozen_config(folder)
    checkpoint = newest_checkpoint(folder / CHECKPOINTS)
    if checkpoint is None:
        raise InputError(
            f"run={folder}: has no checkpoint yet; its end writes one, and trainer.checkpoint_every before that"
        )
    step, state = checkpoint
    modalities = {name: Modality(**fields) for name, fields in state["modalities"].items()}
    network = build_model(config, modalities)
    network.load_state_dict(state["model"])
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    sizes = sizes_after(config, step)
    return TrainedModel(folder, config, modalities, sizes, step, network.eval().to(where))


def _date(value: datetime.date | str) -> datetime.date:
    if isinstance(value, datetime.date):
        return value
    try:
        return datetime.date.fromisoformat(value)
    except ValueError:
        raise InputError(f"dates: {value!r}: not a date; write it as 2024-05-31") from None

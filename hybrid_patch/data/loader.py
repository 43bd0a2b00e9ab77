"""From a source to the batches of a training: (seed, step) alone decides samples, crops and masks.

A resumed run sees exactly what it would have seen, on any number of workers and processes.
"""

import functools
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch.utils.data import DataLoader, Dataset

from hybrid_patch.config.curriculum import PatchSizes, samples_before, sizes_at, tile_for
from hybrid_patch.config.masking_options import band_dropout_problems
from hybrid_patch.config.schema import Config
from hybrid_patch.config.target_options import LabelTarget
from hybrid_patch.data.batch import Batch, QuerySampling
from hybrid_patch.data.crops import Crop, MaskedCrop, collate, read_crop
from hybrid_patch.data.dropout import draw_band_mask, draw_path_mask
from hybrid_patch.data.masking import coarse_presence, draw_masks
from hybrid_patch.data.source import Array, BrokenSampleError, Source, Window
from hybrid_patch.data.taught import TaughtWindows
from hybrid_patch.data.training_labels import TrainingLabels, has_label
from hybrid_patch.errors import InputError

CROP_TRIES = 4
"""Crops of a sample that are tried before one is made around a valid pixel."""
SUBSTITUTES = 20
"""Broken samples in a row after which `data.on_error=skip` gives up."""

Labels = Int[Array, "h w"] | Float[Array, "h w"]

# Streams of random numbers that never meet: the order of an epoch, what happens to one sample, and to one step.
ORDER, SAMPLE, STEP = 0, 1, 2


class TrainingSteps(Dataset[Batch | BrokenSampleError]):
    """Item `step` is the batch of that step, or of this process's part of it.

    Samples come in epochs, each in its own random order. With `data.on_error=skip` a broken sample is replaced by
    another, drawn at random; with `raise` the item is the error, for the training process to raise. With `taught`
    windows, their crops take the place of those of whole samples. With `target=labels` samples are of the share with
    labels, and their crops have some where they can.
    """

    def __init__(
        self, source: Source, config: Config, rank: int, world: int, taught: TaughtWindows | None = None
    ) -> None:
        self.source, self.config, self.taught = source, config, taught
        self.labels = None
        if isinstance(config.target, LabelTarget):
            self.labels = TrainingLabels(source, config.target, config.seed)
            self.indices = self.labels.indices()
        else:
            self.indices = source.indices("train") if taught is None else np.arange(len(taught))
        if len(self.indices) == 0:
            raise InputError("data: there are no training samples; check data.root and its split")
        for problem in band_dropout_problems(config.masking, source.modalities):
            raise InputError(problem)
        self.local = config.trainer.batch_size // world
        self.first = rank * self.local
        self.inputs = [name for name, modality in source.modalities.items() if not modality.decode_only]
        self.epoch_order = functools.lru_cache(maxsize=2)(self._epoch_order)

    def __getitem__(self, step: int) -> Batch | BrokenSampleError:
        start = samples_before(self.config, step) + self.first
        sizes = sizes_at(self.config, step)
        try:
            samples = [self._sample(position, sizes) for position in range(start, start + self.local)]
            return collate(samples, self.inputs, self._query_sampling(step, sizes))
        except BrokenSampleError as error:
            return error

    def first_crops(self, number: int, sizes: PatchSizes | None = None) -> Iterator[Crop]:
        """The crops of the training's first samples, in order; broken ones are passed over.

        They are as in a stage with these `sizes`, by default the first.
        """
        for sample in self._first_samples(number, sizes):
            yield sample.crop

    def first_labels(self, number: int) -> Iterator[Int[Array, " n"] | Float[Array, " n"]]:
        """The labels that are learned from in each of the first crops."""
        for sample in self._first_samples(number):
            assert sample.labels is not None
            yield sample.labels[has_label(sample.labels)]

    def _first_samples(self, number: int, sizes: PatchSizes | None = None) -> Iterator[MaskedCrop]:
        for position in range(number):
            with suppress(BrokenSampleError):
                yield self._sample(position, sizes or sizes_at(self.config, 0))

    def _epoch_order(self, epoch: int) -> Int[Array, " n"]:
        return np.random.default_rng([self.config.seed, ORDER, epoch]).permutation(self.indices)

    def _query_sampling(self, step: int, sizes: PatchSizes) -> QuerySampling:
        rng = np.random.default_rng([self.config.seed, STEP, step])
        subpixels = rng.permutation(sizes.factor**2)
        strata = rng.random(self.config.loss.max_queries or 0, dtype=np.float32)
        return QuerySampling(torch.from_numpy(subpixels), torch.from_numpy(strata))

    def _sample(self, position: int, sizes: PatchSizes) -> MaskedCrop:
        """The sample at a position in the endless sequence of epochs."""
        rng = np.random.default_rng([self.config.seed, SAMPLE, position])
        epoch, number = divmod(position, len(self.indices))
        index = int(self.epoch_order(epoch)[number])
        skipped: list[str] = []
        numbers, labels = None, None
        while True:
            try:
                if self.taught is None:
                    sample, labels = self._crop(index, tile_for(self.config, sizes), rng)
                else:
                    sample, corner = self.taught.crop(self.taught.window(index), rng)
                    numbers = self.taught.numbers(index), corner
                break
            except BrokenSampleError as error:
                skipped.append(str(error))
                if self.config.data.on_error == "raise":
                    raise
                if len(skipped) == SUBSTITUTES:
                    raise BrokenSampleError(f"{SUBSTITUTES} broken samples in a row, the last one: {error}") from error
                index = int(rng.choice(self.indices))
        modalities = self.source.modalities
        presence = {
            name: coarse_presence(valid[None], sizes.processing, len(modalities[name].band_sets))
            for name, valid in sample.valid.items()
        }
        views = [draw_masks(self.config.masking, modalities, presence, rng) for _ in range(self.config.masking.views)]
        masks = {name: np.concatenate([view[name] for view in views]) for name in presence}
        guide_mask, band_mask, path_mask = self._guide_mask(sample, rng), self._band_mask(rng), self._path_mask(rng)
        return MaskedCrop(sample, masks, guide_mask, band_mask, path_mask, tuple(skipped), numbers, labels)

    def _guide_mask(self, sample: Crop, rng: np.random.Generator) -> dict[str, Bool[Array, "v _ _ _"]]:
        """The pixels that an upsampler may look at, drawn one by one."""
        dropout, views = self.config.upsampler.pixel_dropout, self.config.masking.views
        if dropout is None:
            return {}
        return {name: rng.random((views, *sample.valid[name].shape), np.float32) >= dropout for name in self.inputs}

    def _band_mask(self, rng: np.random.Generator) -> dict[str, Bool[Array, " _"]]:
        """The bands that the encoder may look at, in all views."""
        shares = self.config.masking.band_dropout
        return {name: draw_band_mask(share, self.source.modalities[name], rng) for name, share in shares.items()}

    def _path_mask(self, rng: np.random.Generator) -> dict[str, Bool[Array, "v _ 2"]]:
        """The residual branches that are not left out."""
        model, views = self.config.model, self.config.masking.views
        stacks = {"encoder": model.encoder, "decoder": model.decoder}
        return {name: draw_path_mask(size, views, rng) for name, size in stacks.items() if size.drop_path}

    def _crop(self, index: int, tile: int, rng: np.random.Generator) -> tuple[Crop, Labels | None]:
        """A random window and random timesteps of a sample with something for the encoder to see, and labels."""
        data = self.config.data
        height, width, length = self.source.shape(index)
        unlabelled = None
        for _ in range(CROP_TRIES):
            window = Window.at_random(rng, height, width, tile)
            timesteps = np.sort(rng.permutation(length)[: data.timesteps])
            crop, labels = self._read(index, window, timesteps)
            if any(crop.valid[name].any() for name in self.inputs):
                if labels is None or has_label(labels).any():
                    return crop, labels
                unlabelled = unlabelled or (crop, labels)
        return unlabelled or self._crop_around_data(index, tile, rng)

    def _crop_around_data(self, index: int, tile: int, rng: np.random.Generator) -> tuple[Crop, Labels | None]:
        """A crop of a sample that is mostly missing: around a valid pixel, at its timestep and others."""
        data = self.config.data
        height, width, length = self.source.shape(index)
        whole = read_crop(self.source, index, Window(0, 0, height, width), np.arange(length), length, labels=False)
        valid_pixels = np.concatenate([np.argwhere(whole.valid[name]) for name in self.inputs])
        if len(valid_pixels) == 0:
            raise BrokenSampleError(f"{self.source.name(index)}: nothing but missing pixels")
        row, column, time = valid_pixels[rng.integers(len(valid_pixels))]
        top, left = (
            int(np.clip(center - rng.integers(tile), 0, max(side - tile, 0)))
            for center, side in ((row, height), (column, width))
        )
        others = rng.permutation(np.delete(np.arange(length), time))[: data.timesteps - 1]
        return self._read(index, Window(top, left, tile, tile), np.sort(np.append(others, time)))

    def _read(self, index: int, window: Window, timesteps: Int[Array, " t"]) -> tuple[Crop, Labels | None]:
        """A window of a sample, and its labels where they are learned from."""
        labelled = self.labels is not None
        crop = read_crop(self.source, index, window, timesteps, self.config.data.timesteps, labels=labelled)
        return crop, None if self.labels is None else self.labels.of(crop, index, window)


def batches(dataset: TrainingSteps, start: int, workers: int, pin_memory: bool) -> Iterable[Batch | BrokenSampleError]:
    """The items of steps `start` to the last, in order, read ahead by `workers` processes."""
    return DataLoader(
        dataset,
        sampler=range(start, dataset.config.trainer.steps),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals if workers else None,
    )


def _ignore_signals(worker: int) -> None:
    """Signals are for the training process, which finishes its step and saves; workers end when it does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)

"""What many tests build: configs, modalities and batches, small."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from hybrid_patch.config.compose import compose
from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.masking_options import Masking
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.recipe import identity
from hybrid_patch.config.schema import Config
from hybrid_patch.config.upsamplers import load_class
from hybrid_patch.data.batch import Batch, QuerySampling, by_role
from hybrid_patch.data.crops import Crop
from hybrid_patch.data.masking import coarse_presence, draw_masks
from hybrid_patch.data.packing import pack
from hybrid_patch.data.patchify import patchify
from hybrid_patch.data.source import open_source
from hybrid_patch.errors import DONE, STOPPED
from hybrid_patch.loss.targets import RandomTargets
from hybrid_patch.model.tokens import Positions
from hybrid_patch.model.upsampler import TokenSpec, Upsampler
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.stop_signal import StopRequest
from hybrid_patch.train.attempt import prepare
from hybrid_patch.train.checkpointing import newest
from hybrid_patch.train.step import TrainingModule, label_classes
from hybrid_patch.train.trainer import Trainer

OPTICAL = Modality(
    bands=("red", "green", "blue", "nir"),
    band_sets=(("red", "green", "blue"), ("nir",)),
    temporal=True,
    gsd=10.0,
    mean=(0.0,) * 4,
    std=(1.0,) * 4,
)
HEIGHT = Modality(bands=("height",), band_sets=(("height",),), temporal=False, gsd=10.0, mean=(0.0,), std=(1.0,))
COVER = Modality(
    bands=("class",),
    band_sets=(("class",),),
    temporal=False,
    kind="categorical",
    classes=(10, 20, 30, 40),
    decode_only=True,
    gsd=10.0,
)
MODALITIES = {"optical": OPTICAL, "height": HEIGHT, "cover": COVER}


def small(*overrides: str) -> Config:
    """A tiny model on 16-pixel tiles, no logger, no evaluation; all tokens are queries, in two views."""
    return compose(
        [
            "logger=none",
            "evaluation=none",
            "data.tile=16",
            "data.timesteps=2",
            "trainer.batch_size=3",
            "upsampler=bilinear",
            "masking.views=2",
            "loss.instance.weight=0.1",
            "loss.max_queries=null",
            "model.encoder={width:32,depth:2,heads:4,mlp_ratio:2.0}",
            "model.decoder={width:48,depth:1,heads:4,mlp_ratio:2.0}",
            *overrides,
        ]
    )


def make_batch(
    patch_size: int,
    modalities: Mapping[str, Modality] = MODALITIES,
    samples: int = 3,
    side: int = 16,
    timesteps: int = 2,
    missing: float = 0.0,
    seed: int = 0,
) -> Batch:
    """Random pixels, masked twice; a share of the patches, pixels and timesteps is missing."""
    rng = np.random.default_rng(seed)
    pixels, valid = {}, {}
    for name, modality in modalities.items():
        t = timesteps if modality.temporal else 1
        shape = (samples, side, side, t)
        valid_mask = (rng.random(shape) >= missing) & (rng.random((samples, 1, 1, t)) >= missing / 2)
        if modality.kind == "categorical":
            values = np.eye(modality.channels, dtype=np.float32)[rng.integers(modality.channels, size=shape)]
        else:
            values = rng.random((*shape, modality.channels), dtype=np.float32)
        values[~valid_mask] = 0
        pixels[name], valid[name] = values, valid_mask
    presence = {name: coarse_presence(v, patch_size, len(modalities[name].band_sets)) for name, v in valid.items()}
    masking = Masking(name="random", encode_ratio=0.5, decode_ratio=0.5, views=2, band_dropout={})
    views = [draw_masks(masking, modalities, presence, rng) for _ in range(2)]
    masks = {
        name: torch.from_numpy(np.stack([view[name] for view in views], axis=1)).flatten(0, 1) for name in presence
    }
    months = rng.integers(12, size=(samples, timesteps))
    timestamps = np.stack([np.full_like(months, 15), months, np.full_like(months, 2024)], axis=-1)
    return Batch(
        {name: torch.from_numpy(x) for name, x in pixels.items()},
        {name: torch.from_numpy(x) for name, x in valid.items()},
        torch.from_numpy(timestamps),
        masks,
        *by_role(masks, inputs(modalities)),
        query_sampling_for(patch_size**2, seed),
    )


def crops_of(batch: Batch) -> list[Crop]:
    """The samples of a batch as crops."""

    def arrays(values: Mapping[str, torch.Tensor], i: int) -> dict[str, np.ndarray]:
        return {name: each[i].numpy() for name, each in values.items()}

    samples = range(len(batch.timestamps))
    return [Crop(arrays(batch.pixels, i), arrays(batch.valid, i), batch.timestamps[i].numpy(), None) for i in samples]


def inputs(modalities: Mapping[str, Modality]) -> list[str]:
    """What the encoder takes."""
    return [name for name, modality in modalities.items() if not modality.decode_only]


def query_sampling_for(subpixels: int, seed: int = 0, most: int = 16) -> QuerySampling:
    """Random numbers of a step whose output patch size is 1."""
    rng = torch.Generator().manual_seed(seed)
    return QuerySampling(torch.randperm(subpixels, generator=rng), torch.rand(most, generator=rng))


def dense_targets(targets: RandomTargets, name: str, pixels: Tensor, band_set: Tensor, output: int) -> Tensor:
    """The targets themselves, D wide."""
    return targets.inputs(name, pixels, band_set, output) @ targets.table(name, output)


def dense_predictions(module: TrainingModule, batch: Batch, sizes: PatchSizes, name: str) -> Tensor:
    """Predictions of a modality at all subpixels of its DECODE cells, through the head."""
    latents, _ = module.model.encode({n: patchify(x, sizes.processing) for n, x in batch.pixels.items()}, batch)
    where = {n: Positions(each, torch.arange(sizes.factor**2)) for n, each in batch.decoded.each.items()}
    if module.model.predicts_fine:
        dense = module.model.decoder.fine(latents, batch, where, sizes)[name].dense()
    else:
        grid = module.model.decode(latents, batch, sizes.processing)[name]
        dense = module.model.decoder_upsampler(grid, sizes.factor, where[name]).dense()
    head = module.objective.terms["decoded"].head
    assert isinstance(head, nn.Linear)
    return head(dense)


def upsampler_of(name: str, *factors: int) -> Upsampler:
    """A built-in upsampler of tokens of 6 numbers, in float64."""
    torch.manual_seed(0)
    options = {"learned": {"width": 16}, "subpixel": {"rank": 5}}.get(name, {})
    upsampler: Upsampler = load_class({"name": name})(TokenSpec(6, factors), **options).double()
    return upsampler


def shaken(upsampler: Upsampler) -> Upsampler:
    """With every parameter at random, zeros too."""
    for parameter in upsampler.parameters():
        nn.init.normal_(parameter)
    return upsampler


def under(mask: Tensor, factor: int) -> Positions:
    """All subpixels of the cells under a mask `[B, h, w, ...]`."""
    return Positions(pack(mask.flatten(1)), torch.arange(factor**2))


def some_samples(batch: Batch, which: slice) -> Batch:
    """A batch of some of the samples, with all their views."""
    return remade(
        batch,
        pixels={name: x[which] for name, x in batch.pixels.items()},
        valid={name: x[which] for name, x in batch.valid.items()},
        timestamps=batch.timestamps[which],
        masks={name: x.unflatten(0, (-1, batch.views))[which].flatten(0, 1) for name, x in batch.masks.items()},
    )


def remade(batch: Batch, **changes: Any) -> Batch:
    """The batch with other pixels, masks, ... and what follows from them."""
    encoded, decoded = by_role(changes.get("masks", batch.masks), list(batch.encoded.each))
    return dataclasses.replace(
        batch, **changes, encoded=encoded, decoded=decoded, guide_mask={}, band_mask={}, path_mask={}, skipped=()
    )


TINY = (
    "logger=none",
    "evaluation=none",
    "model.encoder={width:32,depth:1,heads:4,mlp_ratio:2.0}",
    "model.decoder={width:32,depth:1,heads:4,mlp_ratio:2.0}",
    "data.scenes=4",
    "data.scene_size=32",
    "data.scene_timesteps=4",
    "data.tile=16",
    "data.timesteps=2",
    "trainer.batch_size=2",
    "runtime.threads=1",
)
"""Overrides of a run on synthetic scenes that takes a moment."""


class StopAfter(StopRequest):
    """Becomes true when it has been asked so many times: once a step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0


def trained_run(folder: Path, *overrides: str, steps: int = 2, stop_after: int | None = None) -> Path:
    """A run directory, after a few steps; with `stop_after` they are made by two trainers, one after the other."""
    config = compose([*overrides, f"trainer.steps={steps}", f"run_dir={folder}"])
    run = RunDirectory(folder)
    prepare(run, config, identity(config))
    source = open_source(config.data)

    def fit(stop: StopRequest) -> int:
        torch.manual_seed(config.seed)
        module = TrainingModule(config, source.modalities, label_classes(config, source))
        fabric = Fabric(accelerator="cpu", devices=1)
        trainer = Trainer(config, fabric, run, source, module, newest(fabric, run))
        code, _ = trainer.fit(stop)
        trainer.logger.close()
        return code

    if stop_after is not None:
        assert fit(StopAfter(stop_after)) == STOPPED
    assert fit(StopRequest()) == DONE
    return folder

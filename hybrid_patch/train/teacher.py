"""The teacher of `target=self`: the encoder as a training begins with it, at patch size 1, on small windows."""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.config.curriculum import sizes_at, tile_for
from hybrid_patch.config.schema import Config
from hybrid_patch.config.target_options import SelfTarget
from hybrid_patch.data.covariance import CovarianceSum
from hybrid_patch.data.source import Source
from hybrid_patch.data.taught import PART, TaughtWindows
from hybrid_patch.embed.per_pixel import unmasked_batch
from hybrid_patch.loss.distillation import SelfDistillation
from hybrid_patch.model.position_means import pattern
from hybrid_patch.model.tokens import TokenGrid
from hybrid_patch.runs.atomic_files import write_whole
from hybrid_patch.runs.progress import share_progress, unseen
from hybrid_patch.runs.stop_signal import Check
from hybrid_patch.train.step import TrainingModule

Array = np.ndarray
FITTED_WINDOWS = 64
"""That the space is fitted to, in which tokens are compared."""
SPACE = "space.npz"
SMALLEST_DEVIATION = 1e-6
"""Of tokens, where all windows are alike."""


class Space(NamedTuple):
    """Where tokens of a modality are compared.

    Attributes:
        positions: what a token says of its place in the window alone; see `PositionMeans`.
        mean, projection: of `z = (t - m) W`.
    """

    positions: Float[Tensor, "h w 1 s d"]
    mean: Float[Tensor, " d"]
    projection: Float[Tensor, "d k"]

    def numbers(self, grid: TokenGrid) -> Float[Tensor, "b h w t s k"]:
        """What a teacher says of windows."""
        centred = grid.tokens - self.positions - self.mean
        return torch.where(grid.mask[..., None], centred @ self.projection, 0)


def taught_windows(
    config: Config,
    source: Source,
    module: TrainingModule,
    recipe: Mapping[str, Any],
    folder: Path,
    check: Check,
    quiet: bool,
) -> TaughtWindows:
    """The windows of a training with what the teacher says of them, made now where they are not in the cache yet.

    The cache is a folder in `target.cache`, or else in `folder`; its name tells all that decides its contents.
    `check` is called between windows, and may raise.
    """
    target, sizes = config.target, sizes_at(config, 0)
    assert isinstance(target, SelfTarget)
    assert isinstance(module.objective, SelfDistillation)
    cache = (folder if target.cache is None else Path(target.cache)) / _key(config, recipe)
    tile = tile_for(config, sizes)
    taught = TaughtWindows(source, target, tile, config.data.timesteps, sizes.processing, cache)
    teach = functools.partial(_tokens, module, taught, check)
    numbers = [range(start, min(start + PART, len(taught))) for start in range(0, len(taught), PART)]
    missing = [number for number in range(len(numbers)) if not taught.part(number).exists()]
    path = cache / SPACE
    cache.mkdir(parents=True, exist_ok=True)
    with share_progress("the teacher's windows") if missing and not quiet else nullcontext(unseen) as show:
        if not path.exists():
            _write(path, _fitted(teach(range(min(FITTED_WINDOWS, len(taught)))), target.numbers))
        spaces = _read(path)
        for done, number in enumerate(missing):
            show(done, len(missing), "of the teacher's windows")
            parts = [
                {name: space.numbers(grids[name])[0].half().numpy() for name, space in spaces.items()}
                for grids in teach(numbers[number])
            ]
            arrays = {name: np.stack([part[name] for part in parts]) for name in spaces}
            _write_arrays(taught.part(number), arrays)
    for name, space in spaces.items():
        module.objective.set_projection(name, space.mean, space.projection)
    return taught


@torch.no_grad()
def _tokens(
    module: TrainingModule, taught: TaughtWindows, check: Check, numbers: Iterable[int]
) -> Iterator[dict[str, TokenGrid]]:
    """The encoder's tokens of windows at patch size 1, one window after the other, on the CPU."""
    model, modalities = module.model, taught.source.modalities
    device = next(model.parameters()).device
    for number in numbers:
        check()
        window = taught.window(number)
        batch = unmasked_batch([taught.read(window, window.window)], 1, modalities, {})
        grids = model.coarse_tokens(batch.map(lambda x: x.to(device)), 1)
        yield {name: TokenGrid(grid.tokens.cpu(), grid.mask.cpu()) for name, grid in grids.items()}


def _fitted(windows: Iterable[Mapping[str, TokenGrid]], numbers: int) -> dict[str, Space]:
    """The spaces of all modalities, from the tokens of some windows."""
    grids: dict[str, list[TokenGrid]] = {}
    for window in windows:
        for name, grid in window.items():
            grids.setdefault(name, []).append(grid)
    spaces = {}
    for name, of_windows in grids.items():
        tokens, mask = (torch.cat([getattr(grid, part) for grid in of_windows]) for part in ("tokens", "mask"))
        count = mask.sum((0, 3), keepdim=True)[0, ..., None]
        total = torch.where(mask[..., None], tokens, 0).sum((0, 3), keepdim=True)[0]
        positions = pattern(total / count.clamp(min=1), count[..., 0] > 0)
        rows = CovarianceSum(tokens.shape[-1])
        rows.add((tokens - positions)[mask])
        mean, covariance = rows.covariance()
        variance, axes = torch.linalg.eigh(covariance)
        # Not whitened: of a left-out tile's tokens more is left unexplained then (docs/released-encoders.md).
        deviation = variance.clamp(min=0).sum().sqrt().clamp(min=SMALLEST_DEVIATION)
        projection = axes.flip(1)[:, :numbers] * (numbers**0.5 / deviation)  # numbers whose mean square is 1
        spaces[name] = Space(positions.float(), mean.float(), projection.float())
    return spaces


def _write(path: Path, spaces: Mapping[str, Space]) -> None:
    parts = {f"{name}/{key}": value for name, space in spaces.items() for key, value in space._asdict().items()}
    _write_arrays(path, {name: value.numpy() for name, value in parts.items()})


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    write_whole(path, lambda file: np.savez(file, **arrays))


def _read(path: Path) -> dict[str, Space]:
    with np.load(path) as arrays:
        names = dict.fromkeys(key.rpartition("/")[0] for key in arrays.files)
        return {name: Space(*(torch.from_numpy(arrays[f"{name}/{key}"]) for key in Space._fields)) for name in names}


def _key(config: Config, recipe: Mapping[str, Any]) -> str:
    """A name that differs where the windows or what the teacher says of them differs."""
    parts = {name: recipe[name] for name in ("recipe_version", "data", "model", "init")}
    target = {name: value for name, value in recipe["target"].items() if name != "regression"}
    decisive = {**parts, "target": target, "cell": sizes_at(config, 0).processing}
    if config.init.from_ is None:
        decisive["seed"] = config.seed
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

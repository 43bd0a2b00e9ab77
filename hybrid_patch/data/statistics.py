"""Mean and standard deviation of the bands of a data set, estimated from some of its training samples."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.source import Array, BrokenSampleError, Source, Window
from hybrid_patch.errors import InputError

WINDOWS = 64
"""Windows that are drawn: with 64 × 64 pixels each, a quarter of a million pixels per timestep."""
TIMESTEPS = 12
"""Timesteps that are drawn in each window, at most."""
SEED = 20240531
"""Of the draw; not a run's seed, so that all runs on a data set share their normalisation."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations per band, float64; parts can be merged in any order.

    Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    count: int
    mean: Float[Array, " c"]
    squares: Float[Array, " c"]

    @classmethod
    def of(cls, values: Float[Array, "n c"]) -> "Moments":
        """The moments of some pixels."""
        values = values.astype(np.float64)
        mean = values.mean(0) if len(values) else np.zeros(values.shape[1])
        return cls(len(values), mean, ((values - mean) ** 2).sum(0))

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both parts together."""
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        return Moments(
            count,
            self.mean + step * other.count / count,
            self.squares + other.squares + step**2 * self.count * other.count / count,
        )

    @property
    def std(self) -> Float[Array, " c"]:
        """Standard deviation per band (of the pixels themselves: divided by their count)."""
        return np.sqrt(self.squares / max(self.count, 1))


def fit(source: Source, tile: int) -> dict[str, Modality]:
    """The modalities of a source; the continuous ones without statistics get estimated ones.

    Up to `WINDOWS` windows of `tile` pixels a side are drawn, from as many different training samples as there are,
    and only valid pixels count. The draw depends only on the numbers of samples, pixels and timesteps.
    Broken samples are passed over here: who loads them reports them.

    Raises InputError if a modality has no valid pixel in the windows, BrokenSampleError if no sample can be read.
    """
    modalities, indices = source.modalities, source.indices("train")
    missing = {name: Moments.of(np.zeros((0, len(modalities[name].bands)))) for name in unfitted(modalities)}
    if not missing or len(indices) == 0:
        return dict(modalities)
    rng = np.random.default_rng(SEED)
    order = np.concatenate([rng.permutation(indices) for _ in range(-(-WINDOWS // len(indices)))])[:WINDOWS]
    problems: dict[str, BrokenSampleError] = {}
    for index in order.tolist():
        try:
            height, width, length = source.shape(index)
            window = Window.at_random(rng, height, width, tile).within(height, width)
            sample = source.read(index, window, np.sort(rng.permutation(length)[:TIMESTEPS]), labels=False)
        except BrokenSampleError as error:
            problems[str(error)] = error
            continue
        for name in missing.keys() & sample.images.keys():
            image = sample.images[name]
            valid: Bool[Array, "h w t"] = sample.valid[name] & np.isfinite(image).all(-1)
            missing[name] = missing[name].merged(Moments.of(image[valid]))
    empty = [name for name, moments in missing.items() if moments.count == 0]
    if problems and len(empty) == len(missing):
        raise next(iter(problems.values()))
    for line in problems:
        log.warning("left out of the statistics: %s", line)
    if empty:
        raise InputError(
            f"data.modalities.{empty[0]}: no valid pixel in {len(order)} windows of training samples; "
            "give its mean and std, or leave the modality out"
        )
    fitted = {name: modalities[name].fitted(moments.mean, moments.std) for name, moments in missing.items()}
    return {**modalities, **fitted}


def unfitted(modalities: Mapping[str, Modality]) -> dict[str, Modality]:
    """Those that need statistics and have none."""
    return {name: each for name, each in modalities.items() if each.kind == "continuous" and each.mean is None}

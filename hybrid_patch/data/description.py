"""What a data set is: figures of its samples, bands, dates and classes, and what looks wrong in its values."""

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hybrid_patch.data.source import UNLABELLED, Array, BrokenSampleError, Sample, Source, Window, evenly

SAMPLES = 24
"""Samples that are looked at, at most, spread over all."""
SIDE, TIMESTEPS = 128, 4
"""Pixels a side and timesteps that are read of each, at most."""
MAX_LEVEL_RATIO = 30.0
"""Between a tile's values and the usual, above which its units are taken for others. Water and snow differ by 20."""
MIN_NORMALISED, MAX_NORMALISED, MIN_DEVIATION = -1.0, 2.0, 0.002
"""Of the median and the deviation of normalised values, which are 0.5 and 0.25 in a training."""
MIN_FILL_SHARE, MAX_FILL_DISTANCE = 1e-3, 20.0
"""A value is taken for a fill value if this share of the pixels has it, as far beyond the others' 1 % to 99 %."""


@dataclass(frozen=True)
class Bands:
    """A modality.

    Attributes:
        gsd: metres per pixel.
        missing: share of its pixels that are missing in the samples that were looked at.
    """

    bands: tuple[str, ...]
    band_sets: tuple[tuple[str, ...], ...]
    temporal: bool
    decode_only: bool
    gsd: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    missing: float


@dataclass(frozen=True)
class Description:
    """A data set.

    Attributes:
        samples: by split.
        groups: of samples that may share ground.
        looked_at: samples whose pixels were read for what follows.
        height, width, timesteps: the smallest and the largest.
        dates: the first and the last; None if there are none.
        classes: the share of the labelled pixels (or samples) that each has.
        numbers: mean and standard deviation of labels that are numbers; None if they are not.
        labelled: share of the pixels (or samples) that have a label.
        warnings: what looks wrong, a line each.
    """

    samples: Mapping[str, int]
    groups: int
    looked_at: int
    height: tuple[int, int]
    width: tuple[int, int]
    timesteps: tuple[int, int]
    dates: tuple[str, str] | None
    modalities: Mapping[str, Bands]
    classes: Mapping[str, float]
    numbers: tuple[float, float] | None
    labelled: float
    warnings: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """For people: a line for each kind of figure."""
        counts = ", ".join(f"{count} {split}" for split, count in self.samples.items())
        yield f"samples: {counts}; groups: {self.groups}; looked at: {self.looked_at}"
        yield f"pixels: {_span(*self.height)} × {_span(*self.width)}; timesteps: {_span(*self.timesteps)}"
        if self.dates:
            yield f"dates: {self.dates[0]} to {self.dates[1]}"
        for name, each in self.modalities.items():
            kind = "target only" if each.decode_only else "with timesteps" if each.temporal else "static"
            bands = "1 band" if len(each.bands) == 1 else f"{len(each.bands)} bands"
            yield f"{name}: {bands}, {kind}, {each.gsd:g} m, {each.missing:.1%} missing"
            if each.mean is not None and each.std is not None:
                rows = zip(each.bands, each.mean, each.std, strict=True)
                yield "  mean ± std: " + ", ".join(f"{band} {mean:.4g} ± {std:.4g}" for band, mean, std in rows)
        if self.classes:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in self.classes.items())
            yield f"classes: {shares}; {self.labelled:.1%} labelled"
        if self.numbers:
            mean, std = self.numbers
            yield f"labels: mean ± std {mean:.4g} ± {std:.4g}; {self.labelled:.1%} labelled"
        yield from (f"warning: {line}" for line in self.warnings)


def describe(source: Source, labels: bool = True) -> Description:
    """Look at a source: its splits, and the pixels of some samples, with their labels or without.

    Broken samples are passed over, and warned of.
    """
    splits = {split: source.indices(split) for split in ("train", "val")}
    every = np.concatenate(list(splits.values()))
    looked = dict(_samples(source, every, labels))
    read = {index: sample for index, sample in looked.items() if not isinstance(sample, BrokenSampleError)}
    broken = [str(error) for error in looked.values() if isinstance(error, BrokenSampleError)]
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    unusual = (line for name in source.modalities for line in _warnings(source, name, read))
    shapes = np.array([source.shape(index) for index in read] or [(0, 0, 0)])
    days = sorted(day for sample in read.values() for day in _days(sample))
    classes = source.class_names() if labels else ()
    counts = _labels(read.values(), len(classes)) if classes else np.zeros(1)
    numbers = [sample.numbers.ravel() for sample in read.values() if sample.numbers is not None]
    values = np.concatenate(numbers or [np.zeros(0)]).astype(np.float64)
    finite = values[np.isfinite(values)]
    labelled = len(finite) / len(values) if len(values) else counts[:-1].sum() / max(counts.sum(), 1)
    total = max(counts[:-1].sum(), 1)
    return Description(
        samples={split: len(indices) for split, indices in splits.items()},
        groups=len({source.group(int(index)) for index in every}),
        looked_at=len(read),
        height=(int(shapes[:, 0].min()), int(shapes[:, 0].max())),
        width=(int(shapes[:, 1].min()), int(shapes[:, 1].max())),
        timesteps=(int(shapes[:, 2].min()), int(shapes[:, 2].max())),
        dates=(str(days[0]), str(days[-1])) if days else None,
        modalities={name: _bands(source, name, read) for name in source.modalities},
        classes={name: float(count / total) for name, count in zip(classes, counts, strict=False)},
        numbers=(float(finite.mean()), float(finite.std())) if len(finite) else None,
        labelled=float(labelled),
        warnings=(*(f"broken: {first}{more}" for first in broken[:1]), *unusual),
    )


def _samples(source: Source, indices: Array, labels: bool) -> Iterator[tuple[int, Sample | BrokenSampleError]]:
    for index in indices[evenly(len(indices), SAMPLES)].tolist():
        try:
            height, width, length = source.shape(index)
            top, left = max(height - SIDE, 0) // 2, max(width - SIDE, 0) // 2
            window = Window(top, left, min(height, SIDE), min(width, SIDE))
            yield index, source.read(index, window, evenly(length, TIMESTEPS), labels)
        except BrokenSampleError as error:
            yield index, error


def _days(sample: Sample) -> Iterator[datetime.date]:
    """The dates of a sample; that of an undated one stands for none."""
    for day, month, year in sample.timestamps.tolist():
        if year != 1970:
            yield datetime.date(year, month + 1, day)


def _labels(samples: Iterable[Sample], classes: int) -> Array:
    """How many pixels, or samples, have each class; the last number is of those without a label."""
    counts = np.zeros(classes + 1, np.int64)
    for sample in samples:
        label = UNLABELLED if sample.label is None else sample.label
        labels = np.array([label]) if sample.labels is None else sample.labels
        counts += np.bincount(np.where(labels == UNLABELLED, classes, labels).ravel(), minlength=classes + 1)
    return counts


def _bands(source: Source, name: str, read: Mapping[int, Sample]) -> Bands:
    modality = source.modalities[name]
    valid = [sample.valid[name].mean() if name in sample.valid else 0.0 for sample in read.values()]
    missing = 1 - float(np.mean(valid)) if valid else 1.0
    return Bands(
        modality.bands,
        modality.band_sets,
        modality.temporal,
        modality.decode_only,
        modality.gsd,
        modality.mean,
        modality.std,
        missing,
    )


def _warnings(source: Source, name: str, read: Mapping[int, Sample]) -> Iterator[str]:
    """What looks wrong in the values of a modality."""
    modality = source.modalities[name]
    if modality.kind != "continuous":
        return
    pixels = {index: sample.images[name][sample.valid[name]] for index, sample in read.items() if name in sample.images}
    pixels = {index: values for index, values in pixels.items() if len(values)}
    if len(modality.bands) > 1 and len(pixels) >= 4:  # heights alone may differ as much
        levels = {index: float(np.median(np.abs(values))) for index, values in pixels.items()}
        usual = float(np.median(list(levels.values())))
        high = MAX_LEVEL_RATIO * usual
        odd = [index for index, level in levels.items() if level > high or (0 < level * MAX_LEVEL_RATIO < usual)]
        if odd:
            names = ", ".join(source.name(index) for index in odd[:3])
            yield (
                f"data.modalities.{name}: values around {levels[odd[0]]:.3g} in {names}"
                f"{' and others' if len(odd) > 3 else ''}, around {usual:.3g} in most: other units?"
            )
    if pixels:
        first = next(iter(pixels))
        normalised, _ = modality.normalise(pixels[first], np.ones(len(pixels[first]), bool))
        if far_off(normalised):
            these = f"values around {np.median(pixels[first]):.3g} in {source.name(first)}"
            yield f"data.modalities.{name}: {these}, far from its declared mean and std: other units?"
        values = np.concatenate(list(pixels.values()))
        for band, column in zip(modality.bands, values.T, strict=True):
            fill = _fill_value(column)
            if fill is not None:
                first = next(index for index, each in pixels.items() if (each == fill).any())
                share = (column == fill).mean()
                yield (
                    f"data.modalities.{name}: {share:.1%} of band {band} is {fill:g}, far from the rest, first in "
                    f"{source.name(first)}: a fill value? give it as nodata in the files or meta.json"
                )


def far_off(normalised: Float[Array, "n c"]) -> bool:
    """Whether normalised values are in other units than those that gave the mean and the deviation.

    A single band may have little spread, as heights in a plain do.
    """
    flat = normalised.shape[-1] > 1 and normalised.std(0).max() < MIN_DEVIATION
    return bool(flat or not MIN_NORMALISED <= np.median(normalised) <= MAX_NORMALISED)


def _fill_value(values: Float[Array, " n"]) -> float | None:
    """The smallest or largest value, if many pixels have it and it lies far beyond all others."""
    for extreme in (values.min(), values.max()):
        rest = values[values != extreme]
        if len(rest) and len(values) - len(rest) >= MIN_FILL_SHARE * len(values):
            low, high = np.percentile(rest, [1, 99])
            if low < high and abs(extreme - np.median(rest)) > MAX_FILL_DISTANCE * (high - low):
                return float(extreme)
    return None


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"

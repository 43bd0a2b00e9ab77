"""Pictures of tiles: image, labels, embeddings in common colours, and predictions, for evaluations and the report."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.source import UNLABELLED, Source
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.evaluate.features import Tile, embedding_of
from hybrid_patch.runs.atomic_files import write_whole
from hybrid_patch.runs.stop_signal import Check

Array = np.ndarray
Image = Float[Array, "h w 3"]

RED_GREEN_BLUE = (("b04", "b03", "b02"), ("red", "green", "blue"), ("b4", "b3", "b2"))
"""Names of the visible bands in common products."""
COLOURS_BY_WORD = (
    ("no data", "#ffffff"), ("water", "#2e6fbb"), ("mangrove", "#00a884"), ("wetland", "#4fb6a6"),
    ("conifer", "#12502a"), ("broadleaf", "#3a8f3f"), ("forest", "#1b6e2f"), ("tree", "#1b6e2f"),
    ("shrub", "#c49a3a"), ("grass", "#a6c34c"), ("wheat", "#f0dd7a"), ("rapeseed", "#f2c200"), ("maize", "#e8963c"),
    ("beet", "#b0578d"), ("crop", "#f0b6e0"), ("cultivated", "#f0b6e0"), ("built", "#c0392b"),
    ("building", "#c0392b"), ("artificial", "#c0392b"), ("road", "#6a6a6a"), ("bare", "#b5a48b"),
    ("snow", "#e6f2fa"), ("moss", "#e3d9a0"), ("tundra", "#cfc7a0"),
)  # fmt: skip
"""The colour of a class with this word in its name; the first match counts."""
OTHER_COLOURS = (
    "#6b4c9a", "#94d0ff", "#7a3e1d", "#ffd1dc", "#f0a43c", "#8dd3c7", "#bc80bd", "#fb8072", "#80b1d3", "#fdb462",
)  # fmt: skip
"""For all other classes, in turn."""

PROBE = "linear probe"


class DrawnTile(NamedTuple):
    """A tile to draw, its embedding by the model, and the predicted classes, in the shape of its labels."""

    tile: Tile
    embedding: Float[Array, "h w d"]
    predicted: Int[Array, "rows columns"] | None


class EmbeddedTiles(NamedTuple):
    """The embeddings of all drawn tiles by one model, in the `same_space` as those that give the colours or not."""

    name: str
    values: list[Float[Array, "h w _"]]
    same_space: bool

    def flat(self) -> Float[Array, "n _"]:
        return np.concatenate([x.reshape(-1, x.shape[-1]) for x in self.values])


class Panel(NamedTuple):
    caption: str
    image: Image


class ClassColours:
    """The colours of a source's classes, and which of the classes have been painted."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self.hex = class_colours(classes)
        self._rgb = np.array([to_rgb(colour) for colour in self.hex] or [(1.0, 1.0, 1.0)])
        self._painted: set[int] = set()

    def paint(self, class_map: Int[Array, "h w"]) -> Image:
        """A map of classes as an image; unlabelled pixels are white."""
        label_mask = class_map != UNLABELLED
        self._painted.update(np.unique(class_map[label_mask]).tolist())
        return np.where(label_mask[..., None], self._rgb[np.where(label_mask, class_map, 0)], 1.0)

    def legend(self) -> list[tuple[str, str]]:
        """Names and colours of the classes that have been painted."""
        return [(self.classes[i], self.hex[i]) for i in sorted(self._painted)]


def class_colours(classes: Sequence[str]) -> list[str]:
    """A colour for each class: the one for a word in its name, else the next of `OTHER_COLOURS`."""
    others = itertools.cycle(OTHER_COLOURS)
    return [
        next((colour for word, colour in COLOURS_BY_WORD if word in name.lower()), None) or next(others)
        for name in classes
    ]


def stretch(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Scale each channel's 2nd to 98th percentile to 0 .. 1."""
    low, high = np.nanpercentile(image, [2, 98], axis=(0, 1))
    return np.clip((image - low) / np.maximum(high - low, 1e-6), 0, 1)


def visible_channels(modality: Modality) -> list[int]:
    """The channels of red, green and blue if they are known by name, else the first three (or the first, thrice)."""
    names = [band.lower() for band in modality.bands]
    for triple in RED_GREEN_BLUE:
        if all(name in names for name in triple):
            return [names.index(name) for name in triple]
    return [0, 1, 2] if modality.channels >= 3 else [0, 0, 0]


def drawn_modality(modalities: Mapping[str, Modality]) -> str:
    """The input modality that is drawn: the one with the most bands."""
    return max((name for name, m in modalities.items() if not m.decode_only), key=lambda n: modalities[n].channels)


def visible_image(tile: Tile, source: Source) -> Image:
    """The visible bands at the timestep with the fewest missing pixels, stretched."""
    name = drawn_modality(source.modalities)
    clearest = int(tile.whole.valid[name].sum((0, 1)).argmax())
    return stretch(tile.whole.pixels[name][:, :, clearest][..., visible_channels(source.modalities[name])])


def common_colours(embedded: Sequence[EmbeddedTiles], reference: EmbeddedTiles) -> dict[str, list[Image]]:
    """All models' tiles, by name, in the colours of the reference's three principal components, stretched alike.

    Embeddings in another space are drawn by their best prediction of these (ridge regression): equal colours mean the
    same in all panels.
    """
    pixels = reference.flat()
    middle = pixels.mean(0)
    components = min(3, pixels.shape[1], len(pixels))
    basis = np.linalg.eigh(np.cov(pixels.T, ddof=0).reshape(pixels.shape[1], -1))[1][:, ::-1][:, :components]
    basis *= np.sign(basis[np.abs(basis).argmax(0), np.arange(components)])  # of the two signs, always the same
    target = (pixels - middle) @ basis
    low, high = np.percentile(target, [2, 98], axis=0)
    images = {}
    for model in embedded:
        flat = model.flat()
        if model.same_space:
            scores = (flat - middle) @ basis
        else:
            centred = (flat - flat.mean(0)).astype(np.float64)
            covariance = centred.T @ centred
            ridge = 1e-3 * covariance.trace() / len(covariance) * np.eye(len(covariance))
            scores = centred @ np.linalg.solve(covariance + ridge, centred.T @ target)
        colour = np.zeros((len(flat), 3))
        colour[:, :components] = np.clip((scores - low) / np.maximum(high - low, 1e-9), 0, 1)
        parts = np.split(colour, np.cumsum([x.shape[0] * x.shape[1] for x in model.values])[:-1])
        images[model.name] = [part.reshape(*x.shape[:2], 3) for part, x in zip(parts, model.values, strict=True)]
    return images


def tile_panels(
    tile: Tile,
    source: Source,
    colours: ClassColours,
    embeddings: Mapping[str, Image],
    predictions: Mapping[str, Int[Array, "h w"]],
) -> list[list[Panel]]:
    """A row with the image and the embeddings, and if pixels have labels, one of labels and predictions."""
    rows = [[Panel("image", visible_image(tile, source)), *itertools.starmap(Panel, embeddings.items())]]
    if tile.labels is not None and not tile.pooled:
        rows.append([Panel("labels", colours.paint(tile.labels))])
        label_mask = tile.labels != UNLABELLED
        for caption, predicted in predictions.items():
            share = f", {(predicted != tile.labels)[label_mask].mean():.0%} wrong" if label_mask.any() else ""
            rows[1].append(Panel(f"{caption}{share}", colours.paint(predicted)))
    return rows


def draw_tiles(
    folder: Path,
    model: TrainedModel,
    source: Source,
    drawn: Sequence[DrawnTile],
    others: Mapping[str, TrainedModel],
    check: Check,
) -> Iterator[Path]:
    """Draw a figure per tile, `tile_<n>.png`: image, embeddings, and labels, predictions and errors if there are any.

    Colours are those of the model's own embedding; its tokens before upsampling and other models have panels too.
    """
    if not drawn:
        return
    sizes = model.sizes
    reference = EmbeddedTiles(_caption(sizes), [tile.embedding for tile in drawn], True)
    embedded = [reference]
    if sizes.factor > 1 and reference.values[0].shape[-1] == model.config.model.encoder.width:
        coarse = dataclasses.replace(model, sizes=PatchSizes(sizes.processing, sizes.processing))
        embedded = [_embed(f"tokens at {sizes.processing}", coarse, drawn, True, check), reference]
    embedded += [_embed(f"{name}, {_caption(each.sizes)}", each, drawn, False, check) for name, each in others.items()]
    colours = common_colours(embedded, reference)
    for number, (tile, _, predicted) in enumerate(drawn):
        check()
        path = folder / f"tile_{number}.png"
        embeddings = {f"embedding, {name}": images[number] for name, images in colours.items()}
        painter = ClassColours(source.class_names())
        predictions = {} if predicted is None or tile.pooled else {PROBE: predicted}
        rows = tile_panels(tile, source, painter, embeddings, predictions)
        if predictions and tile.labels is not None:
            # Wrong pixels dark, right ones grey, unlabelled ones white.
            shade = np.where(tile.labels == UNLABELLED, 1.0, np.where(predictions[PROBE] != tile.labels, 0.1, 0.92))
            rows[1].append(Panel("errors", shade[..., None].repeat(3, -1)))
        title = f"{Path(tile.name).name} · step {model.step}"
        if tile.pooled and tile.labels is not None and predicted is not None:
            label, prediction = (
                source.class_names()[x] if x != UNLABELLED else "none" for x in (*tile.labels[0], *predicted[0])
            )
            title += f" · label: {label}, {PROBE}: {prediction}"
        draw_panels(path, title, rows, painter.legend())
        yield path


def _embed(name: str, model: TrainedModel, drawn: Sequence[DrawnTile], same_space: bool, check: Check) -> EmbeddedTiles:
    features = embedding_of(model, "mean", check)
    return EmbeddedTiles(name, [features(tile.tile) for tile in drawn], same_space)


def _caption(sizes: PatchSizes) -> str:
    """`8→1`, or `ps=8` where nothing is upsampled."""
    return f"{sizes.processing}→{sizes.output}" if sizes.factor > 1 else f"ps={sizes.output}"


def draw_panels(path: Path, title: str, rows: Sequence[Sequence[Panel]], legend: Sequence[tuple[str, str]]) -> None:
    """Write rows of panels, a title and a legend of colours as a PNG."""
    columns = max(map(len, rows))
    figure = Figure(figsize=(3.4 * columns, 3.7 * len(rows) + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, panels in zip(axes, rows, strict=True):
        for axis, panel in zip(row, panels, strict=False):
            axis.imshow(panel.image, interpolation="nearest")
            axis.set_title(_plain(panel.caption), fontsize="medium")
    if legend:
        patches = [Patch(facecolor=colour, edgecolor="0.6", label=_plain(name)) for name, colour in legend]
        figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize="small", frameon=False)
    figure.suptitle(_plain(title), fontsize="small", color="0.4")
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _plain(text: str) -> str:
    """A text without formulas: a dollar sign in a file's name starts none."""
    return text.replace("$", r"\$")

"""Pictures of tiles: image, labels, embeddings in colours on a common basis, and what a classifier makes of them."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.data.source import UNLABELLED, Source
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.evaluate.features import Tile, embedding_of
from hybrid_patch.runs.atomic_files import write_whole

Array = np.ndarray

RED_GREEN_BLUE = (("b04", "b03", "b02"), ("red", "green", "blue"), ("b4", "b3", "b2"))
"""Names of visible bands in the field's products."""
USUAL_COLOURS = (
    ("no data", "#ffffff"), ("water", "#2e6fbb"), ("mangrove", "#00a884"), ("wetland", "#4fb6a6"),
    ("conifer", "#12502a"), ("broadleaf", "#3a8f3f"), ("forest", "#1b6e2f"), ("tree", "#1b6e2f"),
    ("shrub", "#c49a3a"), ("grass", "#a6c34c"), ("wheat", "#f0dd7a"), ("rapeseed", "#f2c200"), ("maize", "#e8963c"),
    ("beet", "#b0578d"), ("crop", "#f0b6e0"), ("cultivated", "#f0b6e0"), ("built", "#c0392b"),
    ("building", "#c0392b"), ("artificial", "#c0392b"), ("road", "#6a6a6a"), ("bare", "#b5a48b"),
    ("snow", "#e6f2fa"), ("moss", "#e3d9a0"), ("tundra", "#cfc7a0"),
)  # fmt: skip
"""What a class with such a word in its name is drawn in; the first match counts."""
OTHER_COLOURS = (
    "#6b4c9a", "#94d0ff", "#7a3e1d", "#ffd1dc", "#f0a43c", "#8dd3c7", "#bc80bd", "#fb8072", "#80b1d3", "#fdb462",
)  # fmt: skip
"""For the others, in turn."""


class Shown(NamedTuple):
    """A tile to be drawn, its embedding `[H, W, D]` by the model, and the predicted classes of its labels' places."""

    tile: Tile
    embedding: Float[Array, "h w d"]
    predicted: Int[Array, "rows columns"] | None


class Panel(NamedTuple):
    """Embeddings `[H, W, D]` of all tiles, in the model's own space or in another."""

    name: str
    values: list[Float[Array, "h w _"]]
    of_the_space: bool

    def flat(self) -> Float[Array, "n _"]:
        """All pixels of all tiles."""
        return np.concatenate([x.reshape(-1, x.shape[-1]) for x in self.values])


def class_colours(classes: tuple[str, ...]) -> list[str]:
    """A colour for each class: the usual one of what its name says, else the next of `OTHER_COLOURS`."""
    others = itertools.cycle(OTHER_COLOURS)
    return [
        next((colour for word, colour in USUAL_COLOURS if word in name.lower()), None) or next(others)
        for name in classes
    ]


def stretch(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Each channel's 2nd to 98th percentile to 0 .. 1."""
    low, high = np.nanpercentile(image, [2, 98], axis=(0, 1))
    return np.clip((image - low) / np.maximum(high - low, 1e-6), 0, 1)


def visible_channels(modality: Modality) -> list[int]:
    """The channels of red, green and blue where they are known by name, else the first three (or the first, thrice)."""
    names = [band.lower() for band in modality.bands]
    for triple in RED_GREEN_BLUE:
        if all(name in names for name in triple):
            return [names.index(name) for name in triple]
    return [0, 1, 2] if modality.channels >= 3 else [0, 0, 0]


def shown_modality(modalities: Mapping[str, Modality]) -> str:
    """The modality that is drawn: the one with the most bands."""
    return max((name for name, m in modalities.items() if not m.decode_only), key=lambda n: modalities[n].channels)


def draw_tiles(
    folder: Path,
    model: TrainedModel,
    source: Source,
    shown: Sequence[Shown],
    others: Mapping[str, TrainedModel],
) -> list[Path]:
    """A picture per tile, `tile_<n>.png`: image, labels, embeddings, and a prediction with its errors if there is one.

    Embeddings are drawn by three principal components of the model's own, over all tiles together. Its tokens before
    upsampling are drawn on the same basis; other models' embeddings by what predicts these components best from them
    (ridge regression), so that equal colours mean the same in all panels.

    Args:
        shown: what there is of each tile.
    """
    if not shown:
        return []
    sizes = model.sizes
    own = Panel(sizes_text(sizes), [embedding for _, embedding, _ in shown], True)
    panels = [own]
    if sizes.factor > 1 and own.values[0].shape[-1] == model.config.model.encoder.width:
        coarse = dataclasses.replace(model, sizes=PatchSizes(sizes.processing, sizes.processing))
        panels = [panel_of(f"its tokens at {sizes.processing}", coarse, shown, True), own]
    panels += [panel_of(f"{name}, {sizes_text(other.sizes)}", other, shown, False) for name, other in others.items()]
    colours = common_colours(panels, own)
    modality = shown_modality(source.modalities)
    paths = []
    for number, (tile, _, predicted) in enumerate(shown):
        path = folder / f"tile_{number}.png"
        title = f"{Path(tile.name).name} · step {model.step}"
        images = {name: colour[number] for name, colour in colours.items()}
        labels, guess = (None, None) if tile.pooled else (tile.labels, predicted)
        if tile.pooled and tile.labels is not None and predicted is not None:
            truth, told = (source.classes[int(x)] if x >= 0 else "none" for x in (tile.labels[0, 0], predicted[0, 0]))
            title = f"{title} · label: {truth}, linear probe: {told}"
        _draw(path, title, visible_image(tile, modality, source), labels, source.classes, images, guess)
        paths.append(path)
    return paths


def panel_of(name: str, model: TrainedModel, shown: Sequence[Shown], of_the_space: bool) -> Panel:
    """The embeddings of tiles by a model."""
    features = embedding_of(model, "mean")
    return Panel(name, [features(one.tile) for one in shown], of_the_space)


def sizes_text(sizes: PatchSizes) -> str:
    """`8→1`, or `ps=8` where nothing is upsampled."""
    return f"{sizes.processing}→{sizes.output}" if sizes.factor > 1 else f"ps={sizes.output}"


def visible_image(tile: Tile, name: str, source: Source) -> Float[Array, "h w 3"]:
    """The visible bands at the timestep with the fewest missing pixels."""
    clearest = int(tile.whole.valid[name].sum((0, 1)).argmax())
    return tile.whole.pixels[name][:, :, clearest][..., visible_channels(source.modalities[name])]


def common_colours(panels: Sequence[Panel], own: Panel) -> dict[str, list[Float[Array, "h w 3"]]]:
    """Every panel's tiles in the colours of the own embedding's principal components, stretched alike."""
    pixels = own.flat()
    components = min(3, pixels.shape[1], len(pixels))
    basis = PCA(components, random_state=0).fit(pixels)
    reference = basis.transform(pixels)
    low, high = np.percentile(reference, [2, 98], axis=0)
    found = {}
    for panel in panels:
        flat = panel.flat()
        if panel.of_the_space:
            scores = basis.transform(flat)
        else:
            scores = Ridge(alpha=1e-3 * len(flat) * float(flat.var(0).mean())).fit(flat, reference).predict(flat)
        colour = np.zeros((len(flat), 3))
        colour[:, :components] = np.clip((scores.reshape(len(flat), -1) - low) / np.maximum(high - low, 1e-9), 0, 1)
        parts = np.split(colour, np.cumsum([x.shape[0] * x.shape[1] for x in panel.values])[:-1])
        found[panel.name] = [part.reshape(*x.shape[:2], 3) for part, x in zip(parts, panel.values, strict=True)]
    return found


def _draw(
    path: Path,
    title: str,
    image: Float[Array, "h w 3"],
    labels: Int[Array, "h w"] | None,
    classes: tuple[str, ...],
    colours: Mapping[str, Float[Array, "h w 3"]],
    predicted: Int[Array, "h w"] | None,
) -> None:
    panels = 1 + (labels is not None) + len(colours) + (0 if predicted is None else 2)
    rows = 1 if panels <= 4 else 2
    columns = -(-panels // rows)
    figure = Figure(figsize=(3.4 * columns, 3.7 * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = iter(figure.subplots(rows, columns, squeeze=False).ravel())
    _show(next(axes), "image", stretch(image))
    if labels is not None:
        _show_classes(next(axes), "labels", labels, classes)
    for name, colour in colours.items():
        _show(next(axes), f"embedding, {name}", colour)
    if predicted is not None and labels is not None:
        _show_classes(next(axes), "linear probe", predicted, classes)
        known = labels != UNLABELLED
        wrong = (predicted != labels) & known
        share = f"{wrong.sum() / known.sum():.0%}" if known.any() else "none known"
        shade = np.where(wrong, 0.1, 0.92)[..., None] * np.ones(3)
        shade[~known] = (1, 1, 1)
        _show(next(axes), f"errors ({share})", shade)
    if labels is not None:
        maps = [labels] if predicted is None else [labels, predicted]
        present = np.unique(np.concatenate([m[m != UNLABELLED] for m in maps]))
        palette = class_colours(classes)
        patches = [Patch(facecolor=palette[i], edgecolor="0.6", label=_plain(classes[i])) for i in present]
        figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize="small", frameon=False)
    for axis in figure.axes:
        axis.set_axis_off()
    figure.suptitle(_plain(title), fontsize="small", color="0.4")
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _show(axis: Axes, title: str, image: Float[Array, "h w 3"]) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set_title(_plain(title), fontsize="medium")


def _show_classes(axis: Axes, title: str, values: Int[Array, "h w"], classes: tuple[str, ...]) -> None:
    palette = ListedColormap(class_colours(classes))
    shown = np.ma.masked_equal(values, UNLABELLED)
    axis.imshow(shown, cmap=palette, vmin=-0.5, vmax=len(classes) - 0.5, interpolation="nearest")
    axis.set_title(title, fontsize="medium")


def _plain(text: str) -> str:
    """Names come from files: a dollar sign is no formula."""
    return text.replace("$", r"\$")

"""Pictures: a tile's image and labels beside its per-pixel embedding."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from sklearn.decomposition import PCA

from hybrid_patch.data.modality import Modality
from hybrid_patch.data.sample import UNLABELLED
from hybrid_patch.files import write_whole

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


def draw_tile(
    path: Path,
    title: str,
    image: Float[Array, "h w 3"],
    labels: Int[Array, "h w"] | None,
    classes: tuple[str, ...],
    embedding: Float[Array, "h w d"],
) -> None:
    """One row: image, labels with a legend if there are any, and the embedding's first three principal components."""
    panels = 2 if labels is None else 3
    figure = Figure(figsize=(4 * panels, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    axes[0].imshow(stretch(image), interpolation="nearest")
    axes[0].set_title("image")
    if labels is not None:
        colours = class_colours(classes)
        shown = np.ma.masked_equal(labels, UNLABELLED)
        axes[1].imshow(shown, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(classes) - 0.5, interpolation="nearest")
        axes[1].set_title("labels")
        present = np.unique(labels[labels != UNLABELLED])
        patches = [Patch(facecolor=colours[i], edgecolor="0.6", label=_plain(classes[i])) for i in present]
        figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize="small", frameon=False)
    h, w, d = embedding.shape
    components = min(3, d)
    colour = np.zeros((h, w, 3))
    colour[..., :components] = PCA(components).fit_transform(embedding.reshape(-1, d)).reshape(h, w, components)
    axes[-1].imshow(stretch(colour), interpolation="nearest")
    axes[-1].set_title("embedding, 3 principal components")
    for axis in axes:
        axis.set_axis_off()
    figure.suptitle(_plain(title), fontsize="small", color="0.4")
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _plain(text: str) -> str:
    """Names come from files: a dollar sign is no formula."""
    return text.replace("$", r"\$")

"""The README's first picture: a tile's image, its labels, and its embeddings by pure ps=8, a hybrid and pure ps=1.

    python -m tests.tools.first_picture runs/ps8 runs/hybrid runs/ps1 docs/pictures/first.png 12

draws validation tile 12 of the data of the hybrid, whose three principal components give the colours.
"""

import sys
from pathlib import Path

import numpy as np

from hybrid_patch.data.source import open_source
from hybrid_patch.embed.trained_model import load
from hybrid_patch.evaluate.features import embedding_of, read_tiles
from hybrid_patch.evaluate.pictures import (
    ClassColours,
    EmbeddedTiles,
    Panel,
    common_colours,
    draw_panels,
    visible_image,
)
from hybrid_patch.evaluate.settings import settings_of


def draw(ps8: Path, hybrid: Path, ps1: Path, output: Path, number: int) -> None:
    """Draw a row of five panels. Raises InputError for what is no run, IndexError for a tile that is not there."""
    models = {"pure patch size 8": load(ps8), "hybrid 8→1": load(hybrid), "pure patch size 1": load(ps1)}
    reference = models["hybrid 8→1"]
    source = open_source(settings_of(reference, [])[0])
    tile = list(read_tiles(source, "val", None, reference.config.data.timesteps))[number]
    embedded = [
        EmbeddedTiles(name, [embedding_of(model, "mean")(tile)], model is reference) for name, model in models.items()
    ]
    colours = common_colours(embedded, next(each for each in embedded if each.same_space))
    painter = ClassColours(source.class_names())
    labels = np.zeros(tile.valid_mask.shape, np.int64) if tile.labels is None else tile.labels
    panels = [Panel("image", visible_image(tile, source)), Panel("labels", painter.paint(labels))]
    panels += [Panel(name, images[0]) for name, images in colours.items()]
    draw_panels(output, "", [panels], painter.legend())


if __name__ == "__main__":
    *folders, output, number = sys.argv[1:]
    ps8, hybrid, ps1 = map(Path, folders)
    draw(ps8, hybrid, ps1, Path(output), int(number))

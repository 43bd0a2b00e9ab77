"""Describe a data set before anything is trained on it: what is found in its folder, and how its samples look.

Samples and how they are split, bands, dates, pixel sizes, statistics, classes with their shares, missing pixels, and
values that look wrong. Every training begins with the same figures, and keeps them in its run.json.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from hybrid_patch.config.command import run_command
from hybrid_patch.config.options import Option, OutputFile, Overrides
from hybrid_patch.data.source import BrokenSampleError, Source, Window, evenly, open_source
from hybrid_patch.errors import require_extra


@dataclass(frozen=True, kw_only=True)
class DescribeOptions:
    """What the command line asks for."""

    overrides: Annotated[
        tuple[str, ...],
        Overrides(
            {
                "data=OPTION": "the source, as in hybrid-patch train: data=rasters data.root=FOLDER",
                "data.KEY=VALUE": "a value of the source",
            },
            groups=("data", "~data"),
        ),
    ] = ()
    picture: Annotated[OutputFile | None, Option("FILE.png", "four samples and their labels (default: none)")] = None


def describe_command(options: DescribeOptions) -> None:
    """Print the description, and draw the picture."""
    from hybrid_patch.config.compose import compose
    from hybrid_patch.data.description import describe

    source = open_source(compose(options.overrides).data)
    print("\n".join(describe(source).lines()))
    if options.picture is not None:
        draw_samples(source, options.picture)
        print(options.picture)


def draw_samples(source: Source, path: Path, count: int = 4) -> None:
    """Draw the visible bands of some samples at their clearest date, and their labels. Raises InputError."""
    require_extra("eval", "matplotlib", "scipy")
    from hybrid_patch.data.crops import read_crop
    from hybrid_patch.evaluate.pictures import (
        ClassColours,
        Panel,
        draw_panels,
        drawn_modality,
        stretch,
        visible_channels,
    )

    name, colours = drawn_modality(source.modalities), ClassColours(source.class_names())
    images: list[Panel] = []
    labels: list[Panel] = []
    indices = np.concatenate([source.indices("train"), source.indices("val")])
    for index in indices[evenly(len(indices), 3 * count)].tolist():
        if len(images) == count:
            break
        try:
            height, width, length = source.shape(index)
            crop = read_crop(source, index, Window(0, 0, min(height, 256), min(width, 256)), np.arange(length), length)
        except BrokenSampleError:
            continue
        if not crop.valid[name].any():
            continue
        clearest = int(crop.valid[name].sum((0, 1)).argmax())
        image = crop.pixels[name][:, :, clearest][..., visible_channels(source.modalities[name])]
        images.append(Panel(Path(source.name(index)).name, stretch(image)))
        if crop.labels is not None:
            labels.append(Panel("labels", colours.paint(crop.labels)))
    if images:
        draw_panels(path, f"{name}, {len(images)} samples", [images, labels] if labels else [images], colours.legend())


if __name__ == "__main__":
    run_command("hybrid-patch data describe", __doc__, DescribeOptions, describe_command)

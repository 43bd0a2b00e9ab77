"""Pictures of the same tiles by several members, in common colours, with the maps of a linear probe of each.

The panels come from `evaluate/pictures.py`, which composes them into a figure per tile. Here each panel is an image of
its own, so that the page can lay them out, scale them without smoothing and caption them.
"""

import base64
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from hybrid_patch.data.source import UNLABELLED, Source, open_source
from hybrid_patch.embed.trained_model import load
from hybrid_patch.errors import InputError
from hybrid_patch.evaluate.features import Features, Tile, embedding_of, read_tiles
from hybrid_patch.evaluate.linear_probe import fit_linear_probe
from hybrid_patch.evaluate.pictures import ClassColours, EmbeddedTiles, Panel, common_colours, tile_panels
from hybrid_patch.evaluate.pixel_sampling import NotEnoughLabelsError, sample_pixels
from hybrid_patch.evaluate.settings import settings_of
from hybrid_patch.report.grouping import ReportMember
from hybrid_patch.report.load_runs import Run, nested, one_line
from hybrid_patch.runs.atomic_files import write_bytes, write_json
from hybrid_patch.runs.checkpoints import list_checkpoints
from hybrid_patch.runs.directory import CHECKPOINTS

log = logging.getLogger(__name__)
Array = np.ndarray

MAX_MEMBERS = 8
"""Members that are drawn."""
TRAIN_TILES, TRAIN_PIXELS = 24, 20_000
"""Training tiles, and pixels of them, for the probe of the pictures: fewer than for that of the scores."""
CANDIDATES = 24
"""Validation tiles, of which those with the most even mix of classes are drawn."""
VERSION = 2
"""Raised when the same runs would be drawn differently."""


class Gallery(NamedTuple):
    """Pictures for the page.

    Attributes:
        tiles: each with a `name` and `rows` of panels: `caption` and `src`.
        classes: names and colours of the labels' classes.
        note: how they were made, or why there are none.
    """

    tiles: list[dict[str, Any]]
    classes: list[tuple[str, str]]
    note: str


class DrawnRun(NamedTuple):
    """A run that represents its member."""

    label: str
    run: Run
    pure: int | None


def gallery(members: Sequence[ReportMember], count: int, folder: Path, progress: Callable[[str], None]) -> Gallery:
    """The gallery of `count` tiles; pictures of an earlier report of the same runs are reused.

    Args:
        members: the best hybrid first among hybrids.
        folder: for the panels' files.
        progress: told what is being done.
    """
    if not count:
        return Gallery([], [], "")
    runs = runs_to_draw(members)
    if not runs:
        return Gallery([], [], "No pictures: no run is done and has a checkpoint.")
    identities = [[label, str(run.path.absolute()), *_newest_checkpoint(run)] for label, run, _ in runs]
    key = {"version": VERSION, "count": count, "runs": identities}
    cache = folder / "pictures.json"
    if cache.exists():
        cached = json.loads(cache.read_text())
        if cached["key"] == key:
            return _from_files(cached, folder)
    try:
        drawn = _draw(runs, count, folder, progress)
    except (InputError, OSError, ValueError, RuntimeError) as error:  # data that are gone, a checkpoint of other code
        return Gallery([], [], f"No pictures: {one_line(error)}")
    write_json(cache, {"key": key, **drawn})
    return _from_files(drawn, folder)


def runs_to_draw(members: Sequence[ReportMember]) -> list[DrawnRun]:
    """A run each of pure ps=8, the hybrids from the best on, and pure ps=1, as far as they are done and on the data of
    the first."""
    candidates = []
    for member in members:
        runs = [run for run in member.runs if run.state == "done" and list_checkpoints(run.path / CHECKPOINTS)]
        if runs:
            run = min(runs, key=lambda run: (not run.evaluation, run.seed or 0))
            candidates.append(DrawnRun(member.label, run, member.pure))

    def data(drawn: DrawnRun) -> object:
        return nested(drawn.run.recipe, "data", "fingerprint")

    same_data = [drawn for drawn in candidates if data(drawn) == data(candidates[0])]
    pure = [drawn for drawn in same_data if drawn.pure is not None]
    hybrids = [drawn for drawn in same_data if drawn.pure is None][: max(MAX_MEMBERS - len(pure), 1)]
    coarse = [drawn for drawn in pure if drawn.pure != 1]
    return [*coarse, *hybrids, *(drawn for drawn in pure if drawn.pure == 1)][:MAX_MEMBERS]


def _newest_checkpoint(run: Run) -> tuple[str, int]:
    """Its name, and when it was written."""
    _, path = list_checkpoints(run.path / CHECKPOINTS)[-1]
    return path.name, path.stat().st_mtime_ns


def _draw(runs: Sequence[DrawnRun], count: int, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Write the panels; returns their files and captions."""
    models = {drawn.label: load(drawn.run.path) for drawn in runs}
    first = next(iter(models.values()))
    data, evaluation = settings_of(first, ["evaluation=default"])
    source = open_source(data)
    split = "val" if len(source.indices("val")) else "train"
    candidates = list(read_tiles(source, split, max(CANDIDATES, count), first.config.data.timesteps))
    shown = sorted(candidates, key=_class_entropy, reverse=True)[:count]
    if not shown:
        raise InputError("no tile of the data can be read")
    embedded: dict[str, list[Float[Array, "h w d"]]] = {}
    predicted: dict[str, list[Int[Array, "h w"]]] = {}
    for label, model in models.items():
        progress(f"pictures: {label}")
        features = embedding_of(model, evaluation.pooling)
        embedded[label] = [features(tile) for tile in shown]
        if source.classes and split == "val" and not shown[0].pooled:
            maps = _predicted(features, source, model.config.data.timesteps, shown, embedded[label])
            predicted |= {label: maps} if maps else {}
    reference = next((drawn.label for drawn in runs if drawn.pure is None), runs[0].label)
    panels = [EmbeddedTiles(label, values, label == reference) for label, values in embedded.items()]
    colours = common_colours(panels, next(panel for panel in panels if panel.name == reference))
    return {**_write_panels(folder, source, shown, colours, predicted), "reference": reference}


def _class_entropy(tile: Tile) -> float:
    """The entropy of a tile's classes."""
    if tile.labels is None or not (tile.labels != UNLABELLED).any():
        return 0.0
    counts = np.unique(tile.labels[tile.labels != UNLABELLED], return_counts=True)[1]
    frequencies = counts / counts.sum()
    return float(-(frequencies * np.log(frequencies)).sum())


def _predicted(
    features: Features,
    source: Source,
    timesteps: int,
    shown: Sequence[Tile],
    embedded: Sequence[Float[Array, "h w d"]],
) -> list[Int[Array, "h w"]]:
    """The maps of a linear probe of a model's embedding; empty where there are too few labels to train it."""
    train = read_tiles(source, "train", TRAIN_TILES, timesteps)
    try:
        probe = fit_linear_probe(*sample_pixels(features, train, TRAIN_PIXELS, 1)[0])
    except NotEnoughLabelsError as error:
        log.warning("no predictions in the pictures: %s", error)
        return []
    return [tile.predict(probe.predict, values) for tile, values in zip(shown, embedded, strict=True)]


def _write_panels(
    folder: Path,
    source: Source,
    shown: Sequence[Tile],
    colours: Mapping[str, Sequence[Float[Array, "h w 3"]]],
    predicted: Mapping[str, Sequence[Int[Array, "h w"]]],
) -> dict[str, Any]:
    class_colours = ClassColours(source.classes)

    def written(name: str, panel: Panel) -> dict[str, str]:
        buffer = io.BytesIO()
        Image.fromarray((np.clip(np.nan_to_num(panel.image), 0, 1) * 255).round().astype(np.uint8)).save(buffer, "png")
        write_bytes(folder / name, buffer.getvalue())
        return {"caption": panel.caption, "file": name}

    pictures = []
    for number, tile in enumerate(shown):
        embeddings = {label: images[number] for label, images in colours.items()}
        predictions = {f"probe of {label}": maps[number] for label, maps in predicted.items()}
        rows = [
            [written(f"tile_{number}_{'ab'[row]}{column}.png", panel) for column, panel in enumerate(panels)]
            for row, panels in enumerate(tile_panels(tile, source, class_colours, embeddings, predictions))
        ]
        pictures.append({"name": Path(tile.name).name, "rows": rows})
    return {"tiles": pictures, "classes": class_colours.legend()}


def _from_files(drawn: Mapping[str, Any], folder: Path) -> Gallery:
    """The panels with their files' content, so that the page needs no other file."""

    def with_content(panel: Mapping[str, str]) -> dict[str, str]:
        content = base64.b64encode((folder / panel["file"]).read_bytes()).decode()
        return {"caption": panel["caption"], "src": f"data:image/png;base64,{content}"}

    pictures = [
        {"name": tile["name"], "rows": [[with_content(panel) for panel in row] for row in tile["rows"]]}
        for tile in drawn["tiles"]
    ]
    note = (
        f"Of {CANDIDATES} validation tiles, evenly spread over the split, those with the most even mix of classes. "
        f"Colours are three principal components of the embedding of {drawn['reference']} over these tiles; the panels "
        "of other members show the best linear prediction of these components from theirs, so that a colour means the "
        f"same everywhere. The maps are of a linear probe trained on {TRAIN_TILES} training tiles, a smaller one than "
        "that of the scores. Each member is represented by its run of the lowest seed."
    )
    return Gallery(pictures, [(name, colour) for name, colour in drawn["classes"]], note)

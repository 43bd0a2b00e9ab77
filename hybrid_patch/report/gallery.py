"""The same tiles by several members, in the same colours, and what a linear probe makes of each."""

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
from hybrid_patch.report.grouping import Member
from hybrid_patch.report.load_runs import Run
from hybrid_patch.runs.atomic_files import write_bytes, write_json
from hybrid_patch.runs.checkpoints import list_checkpoints
from hybrid_patch.runs.directory import CHECKPOINTS

log = logging.getLogger(__name__)
Array = np.ndarray

MOST = 8
"""Members that are drawn."""
LEARNT_ON, PIXELS = 24, 20_000
"""Training tiles, and pixels of them, that the probe of the pictures learns on: fewer than that of the scores."""
LOOKED_AT = 24
"""Validation tiles out of which those with the most even mix of classes are drawn."""
VERSION = 1
"""Raised when the same runs would be drawn another way."""


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


class Drawn(NamedTuple):
    """A member that is drawn, by one of its runs."""

    label: str
    run: Run
    pure: int | None


def gallery(members: Sequence[Member], count: int, folder: Path, say: Callable[[str], None]) -> Gallery:
    """The gallery of `count` tiles; what was drawn before is taken from the folder.

    Args:
        members: the best hybrid first among hybrids.
        folder: for the panels' files.
        say: told what is being done.
    """
    if not count:
        return Gallery([], [], "")
    drawn = chosen(members)
    if not drawn:
        return Gallery([], [], "No pictures: no run is done and has a checkpoint.")
    key = {
        "version": VERSION,
        "count": count,
        "runs": [[one.label, str(one.run.path.absolute()), *_saved(one.run)] for one in drawn],
    }
    cache = folder / "pictures.json"
    if cache.exists():
        known = json.loads(cache.read_text())
        if known["key"] == json.loads(json.dumps(key)):
            return _from_files(known, folder)
    try:
        made = _made(drawn, count, folder, say)
    except (InputError, OSError, ValueError, RuntimeError) as error:  # data that are gone, a checkpoint of other code
        return Gallery([], [], f"No pictures: {' '.join(str(error).split())[:300]}")
    write_json(cache, {"key": key, **made})
    return _from_files(made, folder)


def chosen(members: Sequence[Member]) -> list[Drawn]:
    """Pure ps=8, hybrids from the best on, pure ps=1: what has a run that is done, on the same data as the first."""
    found = []
    for member in members:
        runs = [run for run in member.runs if run.state == "done" and list_checkpoints(run.path / CHECKPOINTS)]
        if runs:
            run = min(runs, key=lambda one: (not one.evaluation, one.seed or 0))
            found.append(Drawn(member.label, run, member.pure))
    if not found:
        return []
    same = [one for one in found if _data(one.run) == _data(found[0].run)]
    pure = [one for one in same if one.pure is not None]
    hybrids = [one for one in same if one.pure is None][: max(MOST - len(pure), 1)]
    coarse = [one for one in pure if one.pure is not None and one.pure > 1]
    return [*coarse, *hybrids, *(one for one in pure if one.pure == 1)][:MOST]


def _data(run: Run) -> object:
    data = run.recipe.get("data")
    return data.get("fingerprint") if isinstance(data, Mapping) else None


def _saved(run: Run) -> tuple[str, int]:
    """The newest checkpoint, and when it was written."""
    _, path = list_checkpoints(run.path / CHECKPOINTS)[-1]
    return path.name, path.stat().st_mtime_ns


def _made(drawn: Sequence[Drawn], count: int, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The panels, written, and what is where."""
    models = {one.label: load(one.run.path) for one in drawn}
    first = next(iter(models.values()))
    data, evaluation = settings_of(first, ["evaluation=default"])
    source = open_source(data)
    split = "val" if len(source.indices("val")) else "train"
    found = list(read_tiles(source, split, max(LOOKED_AT, count), first.config.data.timesteps))
    shown = sorted(found, key=_mix, reverse=True)[:count]
    if not shown:
        raise InputError("no tile of the data can be read")
    embedded: dict[str, list[Float[Array, "h w d"]]] = {}
    predicted: dict[str, list[Int[Array, "h w"]]] = {}
    for label, model in models.items():
        say(f"pictures: {label}")
        features = embedding_of(model, evaluation.pooling)
        embedded[label] = [features(tile) for tile in shown]
        if source.classes and split == "val" and not shown[0].pooled:
            predicted[label] = _predicted(features, source, model.config.data.timesteps, shown, embedded[label])
    own = next((one.label for one in drawn if one.pure is None), drawn[0].label)
    panels = [EmbeddedTiles(label, values, label == own) for label, values in embedded.items()]
    colours = common_colours(panels, next(panel for panel in panels if panel.name == own))
    return _written(folder, source, shown, colours, {k: v for k, v in predicted.items() if v}, own)


def _mix(tile: Tile) -> float:
    """The entropy of a tile's classes."""
    if tile.labels is None or not (tile.labels != UNLABELLED).any():
        return 0.0
    shares = np.unique(tile.labels[tile.labels != UNLABELLED], return_counts=True)[1]
    shares = shares / shares.sum()
    return float(-(shares * np.log(shares)).sum())


def _predicted(
    features: Features,
    source: Source,
    timesteps: int,
    shown: Sequence[Tile],
    embedded: Sequence[Float[Array, "h w d"]],
) -> list[Int[Array, "h w"]]:
    """What a probe of a model's embedding makes of tiles; nothing where there are too few labels to learn from."""
    train = read_tiles(source, "train", LEARNT_ON, timesteps)
    try:
        probe = fit_linear_probe(*sample_pixels(features, train, PIXELS, 1)[0])
    except NotEnoughLabelsError as error:
        log.warning("no predictions in the pictures: %s", error)
        return []
    return [tile.predict(probe.predict, values) for tile, values in zip(shown, embedded, strict=True)]


def _written(
    folder: Path,
    source: Source,
    shown: Sequence[Tile],
    colours: Mapping[str, Sequence[Float[Array, "h w 3"]]],
    predicted: Mapping[str, Sequence[Int[Array, "h w"]]],
    own: str,
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
    return {"tiles": pictures, "classes": class_colours.legend(), "own": own}


def _from_files(made: Mapping[str, Any], folder: Path) -> Gallery:
    """The panels with their files' content, so that the page needs no other file."""

    def with_content(panel: Mapping[str, str]) -> dict[str, str]:
        content = base64.b64encode((folder / panel["file"]).read_bytes()).decode()
        return {"caption": panel["caption"], "src": f"data:image/png;base64,{content}"}

    found = [
        {"name": tile["name"], "rows": [[with_content(panel) for panel in row] for row in tile["rows"]]}
        for tile in made["tiles"]
    ]
    note = (
        f"Of {LOOKED_AT} validation tiles, evenly spread over the split, those with the most even mix of classes. "
        f"Colours are three principal components of the embedding of {made['own']} over these tiles; the other "
        "members' panels show what predicts these components best from theirs, so that a colour means the same "
        f"everywhere. Maps are those of a linear probe that learns on {LEARNT_ON} training tiles: another than that of "
        "the scores. One run of each member, that of the lowest seed."
    )
    return Gallery(found, [(name, colour) for name, colour in made["classes"]], note)

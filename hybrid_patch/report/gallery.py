"""Pictures of the same tiles by several members, in common colours, with the maps of a linear probe of each: the panels
of `evaluate/pictures.py` as images of their own, which the page lays out, scales and captions."""

import base64
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from pydantic import Field
from scipy.stats import entropy

from hybrid_patch.data.source import UNLABELLED, Source, open_source
from hybrid_patch.embed.trained_model import load
from hybrid_patch.errors import InputError, number_of
from hybrid_patch.evaluate.features import Features, Tile, embedding_of, read_tiles
from hybrid_patch.evaluate.linear_probe import fit_linear_probe
from hybrid_patch.evaluate.pictures import ClassColours, EmbeddedTiles, Panel, common_colours, tile_panels
from hybrid_patch.evaluate.pixel_sampling import NotEnoughLabelsError, sample_pixels
from hybrid_patch.evaluate.settings import settings_of
from hybrid_patch.report.grouping import ReportMember
from hybrid_patch.report.load_runs import Run, nested, one_line
from hybrid_patch.runs.atomic_files import write_json, write_whole
from hybrid_patch.runs.checkpoint_files import list_checkpoints
from hybrid_patch.runs.directory import CHECKPOINTS
from hybrid_patch.runs.records import DamagedFileError, Parser, parser, read_file, read_record

log = logging.getLogger(__name__)
Array = np.ndarray

MAX_MEMBERS = 8
TRAIN_TILES, TRAIN_PIXELS = 24, 20_000  # of the probe of the pictures: fewer than of that of the scores
CANDIDATES = 24  # validation tiles, of which those with the most even mix of classes are drawn
CACHE = "pictures.json"
VERSION = 3  # raised when the same runs would be drawn differently


class Gallery(NamedTuple):
    """Pictures for the page: tiles with a `name` and `rows` of panels (`caption`, `src`), the classes' names and
    colours, the member whose embedding gives the colours, which tiles they were chosen from, and why there are none."""

    tiles: Sequence[Mapping[str, Any]] = ()
    classes: Sequence[tuple[str, str]] = ()
    reference: str = ""
    candidates: str = ""
    failure: str = ""


@dataclass(frozen=True)
class _Panel:
    caption: str
    file: Annotated[str, Field(pattern=r"^tile_\d+_[ab]\d+\.png$")]


@dataclass(frozen=True)
class _Tile:
    name: str
    rows: list[list[_Panel]]


@dataclass(frozen=True)
class _Drawn:
    """What `CACHE` holds: of which runs the pictures are, and the gallery."""

    key: dict[str, Any]
    tiles: list[_Tile]
    classes: list[tuple[str, str]]
    reference: str
    candidates: str


_DRAWN_OF: Parser[_Drawn] = parser(_Drawn)
DrawnRun = tuple[ReportMember, Run]  # a member, and the run that represents it


def gallery(members: Sequence[ReportMember], count: int, folder: Path, progress: Callable[[str], None]) -> Gallery:
    """The gallery of `count` tiles; it reuses pictures that an earlier report of the same runs left in the folder."""
    if not count:
        return Gallery()
    if not (drawn_runs := _runs_to_draw(members)):
        return Gallery(failure="No pictures: no run is done and has a checkpoint.")
    try:
        newest = [list_checkpoints(run.path / CHECKPOINTS)[-1][1] for _, run in drawn_runs]
        identities = [
            [member.label, str(run.path.absolute()), path.name, path.stat().st_mtime_ns]
            for (member, run), path in zip(drawn_runs, newest, strict=True)
        ]
        key = {"version": VERSION, "count": count, "runs": identities}
        if (pictures := _drawn_before(folder, key)) is None:
            write_json(folder / CACHE, {"key": key, **_draw(drawn_runs, count, folder, progress)})
            pictures = _drawn_before(folder, key)
    except (InputError, OSError, ValueError, RuntimeError) as error:  # no data, or a checkpoint of other code
        return Gallery(failure=f"No pictures: {one_line(error)}")
    return pictures or Gallery(failure="No pictures: they were removed while they were drawn.")


def _drawn_before(folder: Path, key: Mapping[str, Any]) -> Gallery | None:
    """The gallery that a report of the same runs has left in the folder; None if there is none that can be read."""
    try:
        drawn = read_record(folder / CACHE, _DRAWN_OF)
        if drawn is None or drawn.key != key:
            return None
        return Gallery([_tile(folder, tile) for tile in drawn.tiles], drawn.classes, drawn.reference, drawn.candidates)
    except (DamagedFileError, OSError):
        return None


def _tile(folder: Path, tile: _Tile) -> dict[str, Any]:
    def with_content(panel: _Panel) -> dict[str, str]:
        if (content := read_file(folder / panel.file)) is None:
            raise FileNotFoundError(panel.file)
        return {"caption": panel.caption, "src": f"data:image/png;base64,{base64.b64encode(content).decode()}"}

    return {"name": tile.name, "rows": [list(map(with_content, row)) for row in tile.rows]}


def _runs_to_draw(members: Sequence[ReportMember]) -> list[DrawnRun]:
    """A run each of pure ps=8, the best hybrids, and pure ps=1, if done and on the data of the first."""
    candidates = []
    for member in members:
        if runs := [run for run in member.runs if run.state == "done" and list_checkpoints(run.path / CHECKPOINTS)]:
            candidates.append((member, min(runs, key=lambda run: (not run.evaluation, run.seed or 0))))
    data = [nested(run.recipe, "data", "fingerprint") for _, run in candidates]
    same_data = [drawn for drawn, fingerprint in zip(candidates, data, strict=True) if fingerprint == data[0]]
    pure = [drawn for drawn in same_data if drawn[0].pure is not None]
    hybrids = [drawn for drawn in same_data if drawn[0].pure is None][: max(MAX_MEMBERS - len(pure), 1)]
    coarse, fine = ([drawn for drawn in pure if (drawn[0].pure == 1) == is_fine] for is_fine in (False, True))
    return [*coarse, *hybrids, *fine][:MAX_MEMBERS]


def _draw(runs: Sequence[DrawnRun], count: int, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Write the panels; returns their files and captions."""
    models = {member.label: load(run.path) for member, run in runs}
    first = next(iter(models.values()))
    data, evaluation = settings_of(first, ["evaluation=default"])
    source = open_source(data)
    split = "val" if len(source.indices("val")) else "train"
    candidates = list(read_tiles(source, split, max(CANDIDATES, count), first.config.data.timesteps))
    if not (shown := sorted(candidates, key=_class_entropy, reverse=True)[:count]):
        raise InputError("no tile of the data can be read")
    reference = next((member.label for member, _ in runs if member.pure is None), runs[0][0].label)
    embedded: dict[str, EmbeddedTiles] = {}
    predicted: dict[str, list[Int[Array, "h w"]]] = {}
    for label, model in models.items():
        progress(f"pictures: {label}")
        features = embedding_of(model, evaluation.pooling)
        embedded[label] = EmbeddedTiles(label, [features(tile) for tile in shown], label == reference)
        if source.class_names() and split == "val" and not shown[0].pooled:
            maps = _predicted(features, source, model.config.data.timesteps, shown, embedded[label].values)
            predicted |= {f"probe of {label}": maps} if maps else {}
    colours = common_colours(list(embedded.values()), embedded[reference])
    class_colours = ClassColours(source.class_names())
    pictures = []
    for number, tile in enumerate(shown):
        embeddings, predictions = ({label: x[number] for label, x in of.items()} for of in (colours, predicted))
        rows = [
            [_written(folder, f"tile_{number}_{'ab'[row]}{column}.png", panel) for column, panel in enumerate(panels)]
            for row, panels in enumerate(tile_panels(tile, source, class_colours, embeddings, predictions))
        ]
        pictures.append({"name": Path(tile.name).name, "rows": rows})
    chosen_from = number_of(len(candidates), "validation tile" if split == "val" else "training tile")
    return {
        "tiles": pictures,
        "classes": class_colours.legend(),
        "reference": reference,
        "candidates": chosen_from,
    }


def _class_entropy(tile: Tile) -> float:
    labels = np.array([]) if tile.labels is None else tile.labels[tile.labels != UNLABELLED]
    return float(entropy(np.unique(labels, return_counts=True)[1])) if labels.size else 0.0


def _predicted(
    features: Features, source: Source, timesteps: int, shown: Sequence[Tile], embedded: Sequence[Float[Array, "h w d"]]
) -> list[Int[Array, "h w"]]:
    """The maps of a linear probe; none where there are too few labels to train it."""
    train = read_tiles(source, "train", TRAIN_TILES, timesteps)
    try:
        samples = sample_pixels({"embedding": features}, train, TRAIN_PIXELS, 1)["embedding"]
    except NotEnoughLabelsError as error:
        log.warning("no predictions in the pictures: %s", error)
        return []
    probe = fit_linear_probe(*samples[0])
    return [tile.predict(probe.predict, values) for tile, values in zip(shown, embedded, strict=True)]


def _written(folder: Path, name: str, panel: Panel) -> dict[str, str]:
    image = Image.fromarray((np.clip(np.nan_to_num(panel.image), 0, 1) * 255).round().astype(np.uint8))
    write_whole(folder / name, lambda file: image.save(file, "png"))
    return {"caption": panel.caption, "file": name}

"""What an upsampler for a released encoder is worth: measures docs/released-encoders.md on tiles of one folder.

    python -m tests.tools.released_encoder prepare TILES FOLDS   a data folder for each left-out tile
    python -m tests.tools.released_encoder score FOLD RUN ...    scores, times, shares of the teacher
    python -m tests.tools.released_encoder draw FOLD PS8 HYBRID PS1 FILE.png

Runs are told by their folders' names: ps8 and ps1 are the encoder's own tokens, centred by place, ps8_released and
ps1_released the same as released; all others are compared with these.

Each tile is in blocks of 56 pixels, of which every other trains a linear probe and the others score it, both ways,
with 8 pixels left out at the borders of blocks.
"""

import csv
import itertools
import sys
import time
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from hybrid_patch.embed.trained_model import TrainedModel, load
from hybrid_patch.evaluate.label_maps import mixed_patches
from hybrid_patch.evaluate.linear_probe import fit_linear_probe
from hybrid_patch.evaluate.pictures import ClassColours, Panel, draw_panels, stretch

Array = np.ndarray
BLOCK, BORDER, LEAST = 56, 8, 200
"""Pixels: the side of a block, what is left out at its borders, and of a class in each part."""
IMAGES, LABELS = "S2L2A", "LULC"
CLASSES = (
    *("no data", "water", "trees", "flooded vegetation", "crops", "built area", "bare ground", "snow", "clouds"),
    "rangeland",
)
"""Of the labels, by value: those of Esri's land cover, in its order, without its gaps."""
INTERPOLATED, TEACHERS = ("ps8", "ps8_released"), ("ps1", "ps1_released")
PAIRS = 9
"""Of embeddings that are timed in turn."""


def prepare(tiles: Path, folds: Path) -> list[Path]:
    """A folder for each tile that is left out: links to all tiles, and an index that trains on the others."""
    names = sorted(path.name for path in (tiles / IMAGES).glob("*.tif"))
    made = []
    for left_out in names:
        fold = folds / Path(left_out).stem
        fold.mkdir(parents=True, exist_ok=True)
        for folder in (IMAGES, LABELS):
            if not (fold / folder).exists():
                (fold / folder).symlink_to((tiles / folder).resolve())
        with (fold / "index.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["file", "split"])
            rows.writerows([name, "val" if name == left_out else "train"] for name in names)
        made.append(fold)
    return made


def left_out(fold: Path) -> tuple[dict[str, Float[Array, "h w 1 b"]], Int[Array, "h w"]]:
    """The images and the labels of a fold's tile."""
    import rasterio

    def read(folder: str) -> Array:
        with rasterio.open(fold / folder / f"{fold.name}.tif") as file:
            return np.moveaxis(file.read(), 0, -1)

    return {IMAGES: read(IMAGES).astype(np.float32)[:, :, None]}, read(LABELS)[..., 0].astype(np.int64)


def block_parts(side: int) -> tuple[list[Bool[Array, "h w"]], Int[Array, "h w"]]:
    """The pixels of the two parts of a tile, and the block of each pixel."""
    block, within = np.divmod(np.arange(side), BLOCK)
    inner = (within >= BORDER) & (within < BLOCK - BORDER)
    both = inner[:, None] & inner
    even = (block[:, None] + block) % 2 == 0
    return [both & even, both & ~even], block[:, None] * (block.max() + 1) + block


def block_miou(embedding: Float[Array, "h w d"], labels: Int[Array, "h w"]) -> tuple[float, float] | None:
    """mIoU of all pixels and of those in mixed patches, means of both ways; None for a tile of fewer than two classes.

    Classes count that have enough pixels in both parts.
    """
    parts, block = block_parts(len(labels))
    classes = [c for c in np.unique(labels) if c > 0 and all((labels[part] == c).sum() >= LEAST for part in parts)]
    if len(classes) < 2:
        return None
    class_mask, mixed = np.isin(labels, classes), mixed_patches(labels, 8)
    scores = []
    for train, test in (parts, parts[::-1]):
        train, test = train & class_mask, test & class_mask
        probe = fit_linear_probe(embedding[train].astype(np.float32), labels[train], block[train])
        predicted = np.full_like(labels, -1)
        predicted[test] = probe.predict(embedding[test].astype(np.float32))
        scores.append([miou(labels[pixels], predicted[pixels], classes) for pixels in (test, test & mixed)])
    every, of_mixed = np.mean(scores, axis=0)
    return float(every), float(of_mixed)


def miou(labels: Int[Array, " n"], predicted: Int[Array, " n"], classes: list[int]) -> float:
    """The mean IoU of the classes that occur."""
    hits = [((labels == c) & (predicted == c)).sum() / ((labels == c) | (predicted == c)).sum() for c in classes]
    return float(np.mean([iou for iou, c in zip(hits, classes, strict=True) if (labels == c).any()]))


def embed(model: TrainedModel, images: dict[str, Array]) -> tuple[Array, float]:
    """The embedding of a tile and its processor seconds; at patch size 1 in windows side by side, as the teacher's."""
    began = time.process_time()
    embedding = model.embed(images, overlap=0 if model.sizes.processing == 1 else None)
    return embedding, time.process_time() - began


def time_ratios(model: TrainedModel, reference: TrainedModel, images: dict[str, Array]) -> list[float]:
    """How many times the reference's processor time a model takes to embed a tile: pairs in turn, sorted."""
    return sorted(embed(model, images)[1] / embed(reference, images)[1] for _ in range(PAIRS))


def share_left(embedding: Array, interpolated: Array, teacher: Array) -> tuple[float, float]:
    """Of what interpolation leaves of the teacher's tokens, the share that an embedding leaves; and without offsets."""
    rest, before = ((x - teacher).reshape(-1, teacher.shape[-1]).astype(np.float64) for x in (embedding, interpolated))
    centred = ((rest - rest.mean(0)) ** 2).sum() / ((before - before.mean(0)) ** 2).sum()
    return float((rest**2).sum() / (before**2).sum()), float(centred)


def score(fold: Path, runs: list[Path]) -> None:
    """Print what probes make of a fold's tile, and how close to the teacher and how slow each run is."""
    images, labels = left_out(fold)
    models = {run.name: load(run) for run in runs}
    embeddings = {"constant": np.zeros((*labels.shape, 1), np.float32), "raw": images[IMAGES][:, :, 0]}
    embeddings |= {name: embed(model, images)[0] for name, model in models.items()}
    for name, embedding in embeddings.items():
        scores = block_miou(embedding, labels)
        print(f"{name:14s}", "one class" if scores is None else "{:.3f} · {:.3f}".format(*scores), flush=True)
    for name in models.keys() - {*INTERPOLATED, *TEACHERS}:
        for before, teacher in itertools.product(INTERPOLATED, TEACHERS):
            if before in models and teacher in models:
                shares = share_left(embeddings[name], embeddings[before], embeddings[teacher])
                print(f"{name}: of what {before} leaves of {teacher}", "{:.3f}, offsets apart {:.3f}".format(*shares))
        if "ps8" in models:
            ratios = time_ratios(models[name], models["ps8"], images)
            middle, least, most = ratios[PAIRS // 2], ratios[0], ratios[-1]
            print(f"{name}: {middle:.2f} times the time of ps8 ({least:.2f} to {most:.2f})", flush=True)


def draw(fold: Path, runs: dict[str, Path], output: Path) -> None:
    """A tile, its labels and its embeddings, coloured by three principal components of the hybrid's."""
    images, labels = left_out(fold)
    embedded = {name: embed(load(run), images) for name, run in runs.items()}
    reference = embedded["hybrid 8→1"][0].reshape(-1, embedded["hybrid 8→1"][0].shape[-1])
    axes = np.linalg.svd(reference[::7] - reference.mean(0), full_matrices=False)[2][:3].T
    painter = ClassColours(CLASSES)
    panels = [
        Panel("Sentinel-2", stretch(images[IMAGES][:, :, 0, [3, 2, 1]])),
        Panel("land cover", painter.paint(labels)),
        *(Panel(f"{name}, {seconds:.1f} s", stretch(values @ axes)) for name, (values, seconds) in embedded.items()),
    ]
    draw_panels(output, "", [panels], painter.legend())


def main(words: list[str]) -> int:
    if words[0] == "prepare":
        print(*prepare(Path(words[1]), Path(words[2])), sep="\n")
        return 0
    if words[0] == "draw":
        fold, ps8, hybrid, ps1, output = map(Path, words[1:])
        draw(fold, {"patch size 8": ps8, "hybrid 8→1": hybrid, "patch size 1": ps1}, output)
        return 0
    score(Path(words[1]), [Path(word) for word in words[2:]])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

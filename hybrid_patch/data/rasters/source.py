"""A folder of GeoTIFFs as a source of samples: single-date tiles, or blocks of a dated series."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.rasters import Rasters
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
from hybrid_patch.data.rasters.labels import find_labels
from hybrid_patch.data.rasters.layout import Layout, Tiles, find_layout
from hybrid_patch.data.rasters.scene import SceneFiles, read_images
from hybrid_patch.data.source import UNLABELLED, Sample, Window
from hybrid_patch.data.split import hold_out, split_blocks
from hybrid_patch.data.statistics import fit
from hybrid_patch.errors import InputError

Array = np.ndarray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Division:
    """The samples of a folder: which are for training and validation, their groups, and where in the scene they are.

    Attributes:
        train, val: sample numbers, ascending.
        groups: `[N]` group of each sample.
        blocks: the part of the scene that each sample is; None for tiles, which are whole files.
    """

    train: Int[Array, " n"]
    val: Int[Array, " m"]
    groups: Int[Array, " k"]
    blocks: list[Window] | None


class RasterSource:
    """A `Source` of the GeoTIFFs of a folder. See `layout` for what is found in it.

    Raises InputError if the folder does not fit the configuration.
    """

    def __init__(self, config: Rasters) -> None:
        self._files = RasterFiles()
        self._layout = find_layout(config, self._files)
        self.modalities: Mapping[str, Modality] = {name: layer.modality for name, layer in self._layout.layers.items()}
        paths = self._layout.label_files
        names = config.label_classes or self._layout.meta.names("classes")
        self._labels = find_labels(self._files, paths, names, config.label_nodata) if paths else None
        self._tile_labels = None if self._labels else _tile_labels(self._layout)
        self.classes: tuple[str, ...] = self._labels.classes if self._labels else ()
        if self._tile_labels is not None:
            self.classes = tuple(names) or _names(self._tile_labels)
        self._division = _divide(self._layout, config)
        self.modalities = fit(self.modalities, self.indices("train"), config.tile, self.shape, self.read)

    def indices(self, split: str) -> Int[Array, " n"]:
        """Sample numbers of `train` or `val`."""
        return self._division.train if split == "train" else self._division.val

    def group(self, index: int) -> int:
        """The group of a tile; blocks that overlap are one group."""
        return int(self._division.groups[index])

    def shape(self, index: int) -> tuple[int, int, int]:
        """Height, width and number of timesteps. Raises BrokenSampleError."""
        scene, block, _ = self._sample(index)
        return block.height, block.width, len(scene.timestamps)

    def name(self, index: int) -> str:
        """The path of a tile; the folder, and the block's first row and column."""
        content = self._layout.content
        if isinstance(content, Tiles):
            return str(content.scene(index).paths[0])
        _, block, _ = self._sample(index)
        return f"{content.name}[{block.top}:{block.top + block.height}, {block.left}:{block.left + block.width}]"

    def read(self, index: int, window: Window, timesteps: Int[Array, " t"]) -> Sample:
        """Read a window of a sample at some of its timesteps; see `Source.read`."""
        scene, block, grid = self._sample(index)
        area = Window(block.top + window.top, block.left + window.left, window.height, window.width)
        images, valid = read_images(self._files, scene, self._layout.layers, grid, area, timesteps)
        labels = None
        if self._labels:
            labels = np.full((window.height, window.width), UNLABELLED, np.int64)
            if scene.labels:
                labels = self._labels.read(self._files, scene.labels, area, grid)
        label = None if self._tile_labels is None else self._class_of(self._tile_labels[index])
        return Sample(images, valid, scene.timestamps[timesteps], grid.latlon(area), labels, label)

    def _class_of(self, name: str) -> int:
        return self.classes.index(name) if name in self.classes else UNLABELLED

    def _sample(self, index: int) -> tuple[SceneFiles, Window, Header]:
        """The files of a sample, which part of them it is, and their grid."""
        content, blocks, grid = self._layout.content, self._division.blocks, self._layout.grid
        if isinstance(content, SceneFiles):
            assert blocks is not None
            assert grid is not None
            return content, blocks[index], grid
        scene = content.scene(index)
        header = self._files.header(scene.paths[0])
        return scene, Window(0, 0, header.height, header.width), header


def _tile_labels(layout: Layout) -> tuple[str, ...] | None:
    """The class name of every tile, from index.csv."""
    return layout.content.index.labels if isinstance(layout.content, Tiles) else None


def _names(tile_labels: tuple[str, ...] | None) -> tuple[str, ...]:
    return tuple(sorted({name for name in tile_labels or () if name}))


def _divide(layout: Layout, config: Rasters) -> Division:
    content = layout.content
    if isinstance(content, Tiles):
        index = content.index
        if index.splits is None:
            held_out = hold_out(index.groups, config.val_share)
            splits = np.array(["val" if group in held_out else "train" for group in index.groups])
        else:
            splits = np.array(index.splits)
        train, val = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "val")
        division = Division(train, val, index.group_numbers(), None)
    else:
        assert layout.grid is not None
        blocks, held_out_blocks, groups = split_blocks(
            layout.grid.height, layout.grid.width, config.block, config.val_share
        )
        division = Division(np.flatnonzero(~held_out_blocks), np.flatnonzero(held_out_blocks), groups, blocks)
    if len(division.train) == 0:
        raise InputError(f"data.root={config.root}: index.csv lists no tile with the split train")
    if len(division.val) == 0 and config.val_share > 0:
        log.warning("data.root=%s: %s: no validation samples", config.root, _why_no_validation(layout, config))
    return division


def _why_no_validation(layout: Layout, config: Rasters) -> str:
    content = layout.content
    if isinstance(content, SceneFiles):
        assert layout.grid is not None
        side = max(layout.grid.height, layout.grid.width) // 2
        return (
            f"the scene is less than two blocks of data.block={config.block} pixels high and wide; "
            f"try data.block={side} or less"
        )
    return "all tiles are of one group" if content.index.splits is None else "index.csv has none with the split val"

"""A folder of GeoTIFFs as a source of samples: single-date tiles, or blocks of a dated series."""

import logging
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from jaxtyping import Int, Shaped

from hybrid_patch.config.modality import Modality
from hybrid_patch.data.rasters import Rasters
from hybrid_patch.data.rasters.geotiff import Header, RasterFiles
from hybrid_patch.data.rasters.labels import Labels, find_labels, read_numbers
from hybrid_patch.data.rasters.layout import Layout, find_layout
from hybrid_patch.data.rasters.scene import SceneFiles, finest, read_images
from hybrid_patch.data.source import UNLABELLED, Array, Sample, Window
from hybrid_patch.data.split import hold_out, split_blocks
from hybrid_patch.data.statistics import fit
from hybrid_patch.errors import InputError, printable

log = logging.getLogger(__name__)


class RasterSource:
    """A `Source` of the GeoTIFFs of a folder. See `layout` for what is found in it.

    Raises InputError if the folder does not fit the configuration.
    """

    def __init__(self, config: Rasters) -> None:
        self._files = RasterFiles()
        self._layout = layout = find_layout(config, self._files)
        self.modalities: Mapping[str, Modality] = {name: layer.modality for name, layer in layout.layers.items()}
        self._config = config
        self._splits, self._groups, self._blocks = _divide(layout, config)
        self.modalities = fit(self, config.tile)

    @cached_property
    def _labels(self) -> Labels | None:
        """How the files of pixels' classes are read; they are looked at when somebody asks. None: there are none."""
        if self._config.label_kind == "numbers":
            return None
        paths = [self._layout.labels[tile] for tile in self._layout.index.names if tile in self._layout.labels]
        return find_labels(self._files, paths, self._names, self._config.label_nodata) if paths else None

    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; none if labels are numbers. Raises InputError if the label files do not fit."""
        if self._config.label_kind == "numbers":
            return ()
        if self._labels is not None:
            return self._labels.classes
        tile_labels = self._layout.index.labels
        return () if tile_labels is None else self._names or tuple(sorted({*tile_labels} - {""}))

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(self._config.label_classes or self._layout.meta.names("classes"))

    def indices(self, split: str) -> Int[Array, " n"]:
        """Sample numbers of `train` or `val`."""
        return np.flatnonzero(self._splits == split)

    def group(self, index: int) -> int:
        """The group of a tile; blocks that overlap are one group."""
        return int(self._groups[index])

    def shape(self, index: int) -> tuple[int, int, int]:
        """Height, width and number of timesteps. Raises BrokenSampleError."""
        scene, block, _ = self._sample(index)
        return block.height, block.width, len(scene.timestamps)

    def name(self, index: int) -> str:
        """The path of a tile; the folder, and the block's first row and column."""
        if self._blocks is None:
            return printable(str(self._layout.tile(index).paths[0]))
        rows, columns = self._blocks[index].slices
        return f"{self._layout.index.names[0]}[{rows.start}:{rows.stop}, {columns.start}:{columns.stop}]"

    def read(self, index: int, window: Window, timesteps: Int[Array, " t"], labels: bool = True) -> Sample:
        """Read a window of a sample at some of its timesteps; see `Source.read`."""
        scene, block, grid = self._sample(index)
        area = Window(block.top + window.top, block.left + window.left, window.height, window.width)
        images, valid = read_images(self._files, scene, self._layout.layers, grid, area, timesteps)
        classes, label, numbers = None, None, None
        if labels and self._config.label_kind == "numbers":
            if self._layout.labels:
                numbers = np.full((window.height, window.width), np.nan, np.float32)
            if scene.labels:
                numbers = read_numbers(self._files, scene.labels, area, grid, self._config.label_nodata)
        elif labels and self._labels is not None:
            classes = np.full((window.height, window.width), UNLABELLED, np.int64)
            if scene.labels:
                classes = self._labels.read(self._files, scene.labels, area, grid)
        elif labels and self._layout.index.labels is not None:
            name, names = self._layout.index.labels[index], self.class_names()
            label = names.index(name) if name in names else UNLABELLED
        return Sample(images, valid, scene.timestamps[timesteps], grid.latlon(area), classes, label, numbers)

    def _sample(self, index: int) -> tuple[SceneFiles, Window, Header]:
        """The files of a sample, which part of them it is, and their grid."""
        scene = self._layout.tile(0 if self._blocks else index)
        paths = (next(iter(series.values())) for series in scene.files.values())
        grid = self._layout.grid or finest(map(self._files.header, paths))
        block = self._blocks[index] if self._blocks else Window(0, 0, grid.height, grid.width)
        return scene, block, grid


def _divide(layout: Layout, config: Rasters) -> tuple[Shaped[Array, " n"], Int[Array, " n"], list[Window] | None]:
    """The split (train, val, test) and group of each sample, and which block of the scene it is; None: whole tiles."""
    index, grid = layout.index, layout.grid
    if grid is None:
        blocks, names = None, index.groups or index.names
        groups = np.unique(np.array(names), return_inverse=True)[1].reshape(-1)
        held_out = hold_out(names, config.val_share)
        why_none = "all tiles are of one group"
    else:
        blocks, held_out, groups = split_blocks(grid.height, grid.width, config.block, config.val_share)
        why_none = (
            f"the scene is less than two blocks of data.block={config.block} pixels high and wide; "
            f"try data.block={max(grid.height, grid.width) // 2} or less"
        )
    splits = np.where(held_out, "val", "train")
    if index.splits is not None:
        splits, why_none = np.array(index.splits), "index.csv has none with the split val"
    if "train" not in splits:
        raise InputError(f"data.root={config.root}: index.csv lists no tile with the split train")
    if "val" not in splits and config.val_share > 0:
        log.warning("data.root=%s: %s: no validation samples", config.root, why_none)
    return splits, groups, blocks

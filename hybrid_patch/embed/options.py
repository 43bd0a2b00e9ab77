"""The options of a map, for the command and for `make_map`."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from hybrid_patch.config.field_types import Amount, Count
from hybrid_patch.config.options import Option, OutputFile, Positional

DType = Literal["float32", "float16", "int8"]


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """The scene, the file, and the format of a map."""

    input: Annotated[Path, Positional("SCENE", "the scene: a GeoTIFF, or a folder")]
    output: Annotated[OutputFile, Positional("MAP.tif", "the map, a new file")]
    dims: Annotated[
        Count | Literal["full"] | None,
        Option("N|full", "numbers per pixel (default: 64, or the model's width if less); full: all"),
    ] = None
    reduce: Annotated[
        Literal["pca", "random"],
        Option("", "to principal components of a sample of the scene, or to random orthogonal directions"),
    ] = "pca"
    dtype: Annotated[DType, Option("", "int8 comes with a scale and offset for each band")] = "float32"
    overlap: Annotated[
        Amount | None, Option("PIXELS", "that neighbouring windows share (default: a quarter of the training's tile)")
    ] = None
    batch: Annotated[Count | None, Option("N", "windows that are embedded together (default: by free memory)")] = None
    tile: Annotated[str | None, Option("NAME", "which tile of a folder of several")] = None
    date: Annotated[
        datetime.date | None,
        Option("2024-05-31", "of an input of one date; or which of several, for a run of single dates"),
    ] = None
    nodata: Annotated[float | None, Option("VALUE", "what means 'no data' in files that do not say")] = None
    missing_bands: Annotated[
        Literal["error", "drop"], Option("", "drop: leave out the band sets that a missing band is in")
    ] = "error"
    resolution: Annotated[
        Literal["same", "any"], Option("", "any: accept pixels of another size than the training's")
    ] = "same"
    grid: Annotated[
        Literal["pixel", "patch"], Option("", "patch: one pixel of the map for each output patch of the model")
    ] = "pixel"
    cog: Annotated[bool, Option("", "false: a tiled GeoTIFF without overviews, quicker and smaller")] = True

    def identity(self) -> dict[str, Any]:
        """The options that change the numbers or the form of the map, as plain values."""
        names = [
            "dims",
            "reduce",
            "dtype",
            "overlap",
            "tile",
            "date",
            "nodata",
            "missing_bands",
            "resolution",
            "grid",
            "cog",
        ]
        return {name: getattr(self, name) for name in names} | {"date": str(self.date) if self.date else None}


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """The first option of commands on a trained run."""

    run: Annotated[Path, Positional("DIR", "the trained run")]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(MapOptions, TrainedRun):
    """What the command line asks for."""

    device: Annotated[Literal["auto", "cpu", "cuda"], Option("", "where the model runs")] = "auto"

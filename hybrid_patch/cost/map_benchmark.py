"""Measure what embedding a scene costs.

Untrained models (weights do not change the cost) embed one synthetic scene of Sentinel-2's 12 bands at one date into
Cloud-Optimised GeoTIFFs of 64 numbers in int8: on the scene's grid, and pure ps=8 on its own grid too. They take turns
in random order within each round, and are compared by the ratios of their times in the same round.
"""

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.table import Table

from hybrid_patch.config.command import run_command
from hybrid_patch.config.compose import compose
from hybrid_patch.config.field_types import Count
from hybrid_patch.config.options import Items, Option, OutputFile, Positional
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.benchmark import VARIANTS, RunOverrides, check_variants
from hybrid_patch.cost.formatting import format_interval, log, publish, table
from hybrid_patch.errors import require_extra

if TYPE_CHECKING:
    from hybrid_patch.config.modality import Modality
    from hybrid_patch.embed.trained_model import TrainedModel

OPTICAL_ALONE = ("~data.modalities.sentinel1", "~data.modalities.srtm")
BY_RESOLUTION = "[[B02,B03,B04,B08],[B05,B06,B07,B8A,B11,B12],[B01,B09]]"
PATCHES = ":patch"
DATE = "2024-05-31"
BLOCK = 256
"""Side of the scene's blocks, pixels."""


@dataclass(frozen=True, kw_only=True)
class MapBenchmarkOptions:
    """What the command line asks for."""

    size: Annotated[Count, Option("N", "side of the scene, pixels")] = 512
    rounds: Annotated[Count, Option("N", "how often each variant embeds it")] = 3
    variants: Annotated[
        Items[str],
        Option("[a,b]", f"of {', '.join(VARIANTS)}; NAME:patch writes output patches instead of pixels"),
    ] = ("ps8", "ps8:patch", "hybrid", "ps1")
    band_sets: Annotated[Literal["1", "3"], Option("", "tokens of a patch: 1, or 3 by native resolution")] = "1"
    output: Annotated[OutputFile | None, Positional("FILE.json", "write the report")] = None
    overrides: RunOverrides = ()

    def __post_init__(self) -> None:
        check_variants([name.removesuffix(PATCHES) for name in self.variants], list(VARIANTS))
        self.configs  # noqa: B018  # their errors before anything is measured

    @cached_property
    def configs(self) -> dict[str, Config]:
        """The config of each variant."""
        sets = [f"data.modalities.sentinel2_l2a.band_sets={BY_RESOLUTION}"] if self.band_sets == "3" else []
        common = ["logger=none", "evaluation=none", *OPTICAL_ALONE, "data.scenes=1", *sets, *self.overrides]
        return {name: compose([*common, *VARIANTS[name.removesuffix(PATCHES)]]) for name in self.variants}


def map_command(options: MapBenchmarkOptions) -> None:
    """Measure, print the tables, write the report."""
    require_extra("geo", "rasterio")
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")  # as overviews of parts have none
    report = measure(options)
    publish(report, tables(report), options.output)


def measure(options: MapBenchmarkOptions) -> dict[str, Any]:
    """The report: `variants` by name, with the seconds of each phase, and the `ratios` of pairs."""
    from hybrid_patch.cost.timing import interleave, intervals, ratios

    models = {variant: untrained(config) for variant, config in options.configs.items()}
    with tempfile.TemporaryDirectory(prefix="hybrid_patch_") as name:
        scene = Path(name) / f"{DATE}.tif"
        synthetic_scene(scene, next(iter(models.values())).modalities["sentinel2_l2a"], options.size)
        runs = {variant: map_run(scene, model, variant.endswith(PATCHES)) for variant, model in models.items()}
        seconds = interleave(runs, options.rounds, 0, log)
    rows = {variant: intervals(rounds, "map") for variant, rounds in seconds.items()}
    return {
        "size": options.size,
        "rounds": options.rounds,
        "variants": {
            variant: row | {"pixels_per_second": options.size**2 / row["map_seconds"]["median"]}
            for variant, row in rows.items()
        },
        "ratios": ratios(seconds),
    }


def untrained(config: Config) -> "TrainedModel":
    """The model of a config with its initial weights, as if they were trained."""
    import torch

    from hybrid_patch.config.curriculum import sizes_after
    from hybrid_patch.data.source import open_source
    from hybrid_patch.embed.trained_model import TrainedModel
    from hybrid_patch.model.hybrid import build_model
    from hybrid_patch.train.distributed import accelerator

    torch.manual_seed(config.seed)
    modalities, step = open_source(config.data).modalities, config.trainer.steps
    network = build_model(config, modalities).eval().to(accelerator(config.runtime))
    return TrainedModel(Path("untrained"), config, modalities, sizes_after(config, step), step, network)


def map_run(scene: Path, model: "TrainedModel", patches: bool) -> Callable[[], dict[str, float]]:
    """A function that embeds the scene, pixels or output patches, and gives the seconds of each phase."""
    from hybrid_patch.embed.make_map import make_map
    from hybrid_patch.embed.options import MapOptions

    output = scene.parent / "map.tif"
    options = MapOptions(input=scene, output=output, dtype="int8", grid="patch" if patches else "pixel")

    def run() -> dict[str, float]:
        report = make_map(model, options, lambda text: None)
        assert report is not None  # there is no map before
        output.unlink()
        return report.phases

    return run


def tables(report: dict[str, Any]) -> list[Table]:
    """A row per variant, and a row per pair of variants, the slower one first."""
    side, rounds = report["size"], report["rounds"]
    title = f"A scene of {side}×{side} pixels, 64 numbers in int8: median (lowest–highest) of {rounds}"
    times = [
        {
            "variant": name,
            "seconds": format_interval(row["map_seconds"], ".2f"),
            **{phase: f"{row[f'{phase}_seconds']['median']:.2f}" for phase in ("preparing", "embedding", "copying")},
            "pixels/s": f"{row['pixels_per_second']:,.0f}",
        }
        for name, row in report["variants"].items()
    ]
    ratios = [
        {"pair": pair, "time": format_interval(row, ".2f")}
        for pair, row in report["ratios"].items()
        if row["median"] >= 1
    ]
    return [table(title, times), table("Ratios, paired within rounds", ratios)]


def synthetic_scene(path: Path, modality: "Modality", side: int) -> None:
    """An int16 GeoTIFF with a modality's bands: one block of fields and noise around their means, over and over."""
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(0)
    mean, std = (np.array(values)[:, None, None] for values in (modality.mean, modality.std))
    fields = rng.normal(size=(len(mean), BLOCK // 32, BLOCK // 32)).repeat(32, 1).repeat(32, 2)
    block = (mean + std * rng.normal(fields, 0.2)).round().astype(np.int16)
    profile = {
        "driver": "GTiff", "height": side, "width": side, "count": len(mean), "dtype": "int16", "tiled": True,
        "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "ZSTD", "zstd_level": 1, "crs": "EPSG:32633",
        "transform": from_origin(500_000, 5_100_000, modality.gsd, modality.gsd), "bigtiff": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.descriptions = modality.bands
        for _, window in dataset.block_windows(1):
            dataset.write(block[:, : window.height, : window.width], window=window)


if __name__ == "__main__":
    run_command("hybrid-patch benchmark-embed", __doc__, MapBenchmarkOptions, map_command)

"""Measure what embedding a scene costs.

Untrained models (weights do not change the cost) embed one synthetic scene of Sentinel-2's 12 bands at one date into
Cloud-Optimised GeoTIFFs of 64 numbers in int8: on the scene's grid, and pure ps=8 on its own grid too. They take turns
in random order within each round, and are compared by the ratios of their times in the same round.
"""

import dataclasses
import itertools
import sys
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
from hybrid_patch.config.options import Count, Items, Option, OutputFile, Overrides, Positional
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.benchmark import VARIANTS
from hybrid_patch.cost.formatting import format_interval, log, new_table, publish
from hybrid_patch.errors import InputError, require_extra
from hybrid_patch.runs.atomic_files import write_json, write_text
from hybrid_patch.runs.directory import CHECKPOINTS, CONFIG, IDENTITY

if TYPE_CHECKING:
    from hybrid_patch.config.modality import Modality

ONE_SCENE = ("~data.modalities.sentinel1", "~data.modalities.srtm", "data.scenes=1")
BY_RESOLUTION = "[[B02,B03,B04,B08],[B05,B06,B07,B8A,B11,B12],[B01,B09]]"
PATCHES = ":patch"
DATE = "2024-05-31"
PHASES = ("preparing", "embedding", "copying")


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
    overrides: Annotated[
        tuple[str, ...], Overrides({"key=value": "an override for all variants, as in hybrid-patch train"})
    ] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.variants if name.removesuffix(PATCHES) not in VARIANTS]
        if unknown or not self.variants:
            wrong = f"unknown {unknown[0]}" if unknown else "none named"
            raise InputError(f"variants=[{','.join(self.variants)}]: {wrong}; takes: {', '.join(VARIANTS)}")
        self.configs  # noqa: B018  # their errors before anything is measured

    @cached_property
    def configs(self) -> dict[str, Config]:
        """The config of each variant."""
        sets = [f"data.modalities.sentinel2_l2a.band_sets={BY_RESOLUTION}"] if self.band_sets == "3" else []
        common = ["logger=none", "evaluation=none", *ONE_SCENE, *sets, *self.overrides]
        return {name: compose([*common, *VARIANTS[name.removesuffix(PATCHES)]]) for name in self.variants}


def main() -> None:
    """The command."""
    run_command("python -m hybrid_patch.cost.map_benchmark", __doc__, MapBenchmarkOptions, map_command)


def map_command(options: MapBenchmarkOptions) -> None:
    """Measure, print the tables, write the report."""
    require_extra("geo", "rasterio")
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")  # as overviews of parts have none
    report = measure(options)
    publish(report, tables(report), options.output)


def measure(options: MapBenchmarkOptions) -> dict[str, Any]:
    """The report: `variants` by name, with the seconds of each phase, and the `ratios` of pairs."""
    from hybrid_patch.cost.timing import interleave, interval, ratio, totals_of
    from hybrid_patch.data.source import open_source
    from hybrid_patch.runs.provenance import provenance

    with tempfile.TemporaryDirectory(prefix="hybrid_patch_") as name:
        scene = Path(name) / f"{DATE}.tif"
        modalities = open_source(next(iter(options.configs.values())).data).modalities
        synthetic_scene(scene, modalities["sentinel2_l2a"], options.size, options.size)
        runs = {variant: map_run(scene, variant, config) for variant, config in options.configs.items()}
        seconds = interleave(runs, options.rounds, 0, log)
    totals = totals_of(seconds)
    return {
        "machine": provenance(),
        "command": " ".join(sys.argv[1:]),
        "size": options.size,
        "rounds": options.rounds,
        "variants": {
            variant: {
                "seconds": interval(totals[variant])._asdict(),
                **{f"{phase}_seconds": interval([parts[phase] for parts in rounds])._asdict() for phase in PHASES},
                "pixels_per_second": options.size**2 / interval(totals[variant]).median,
            }
            for variant, rounds in seconds.items()
        },
        "ratios": {
            f"{a}/{b}": ratio(totals[a], totals[b])._asdict() for a, b in itertools.permutations(totals, 2)
        },
    }  # fmt: skip


def map_run(scene: Path, variant: str, config: Config) -> Callable[[], dict[str, float]]:
    """A variant's model, untrained, as a function that embeds the scene and gives the seconds of each phase."""
    from hybrid_patch.embed.make_map import make_map
    from hybrid_patch.embed.options import MapOptions
    from hybrid_patch.embed.trained_model import load

    folder = scene.parent / variant
    untrained_run(folder, config)
    model = load(folder)
    grid: Literal["patch", "pixel"] = "patch" if variant.endswith(PATCHES) else "pixel"
    options = MapOptions(input=scene, output=scene.parent / "map.tif", dtype="int8", grid=grid)

    def run() -> dict[str, float]:
        report = make_map(model, options, lambda text: None)
        options.output.unlink()
        return report.phases

    return run


def tables(report: dict[str, Any]) -> list[Table]:
    """A row per variant, and a row per pair of variants, the slower one first."""
    side, rounds = report["size"], report["rounds"]
    title = f"A scene of {side}×{side} pixels, 64 numbers in int8: median (lowest–highest) of {rounds}"
    times = new_table(title, ("variant", "seconds", *PHASES, "pixels/s"), ("variant",))
    for name, row in report["variants"].items():
        phases = [f"{row[f'{phase}_seconds']['median']:.2f}" for phase in PHASES]
        times.add_row(name, format_interval(row["seconds"], ".2f"), *phases, f"{row['pixels_per_second']:,.0f}")
    ratios = Table("pair", "time", title="Ratios, paired within rounds")
    for pair, row in report["ratios"].items():
        if row["median"] >= 1:
            ratios.add_row(pair, format_interval(row, ".2f"))
    return [times, ratios]


def untrained_run(folder: Path, config: Config) -> None:
    """A run directory as training leaves it, with the initial weights."""
    import torch

    from hybrid_patch.config.compose import as_yaml
    from hybrid_patch.data.source import open_source
    from hybrid_patch.model.hybrid import build_model
    from hybrid_patch.runs.checkpoints import save_checkpoint

    torch.manual_seed(config.seed)
    modalities = open_source(config.data).modalities
    write_text(folder / CONFIG, as_yaml(config))
    write_json(folder / IDENTITY, {"run_id": f"untrained_{folder.name}"})
    state = {
        "model": build_model(config, modalities).state_dict(),
        "modalities": {name: dataclasses.asdict(modality) for name, modality in modalities.items()},
    }
    save_checkpoint(folder / CHECKPOINTS, config.trainer.steps, state, keep_newest=1)


def synthetic_scene(path: Path, modality: "Modality", height: int, width: int, seed: int = 0) -> None:
    """An int16 GeoTIFF with a modality's bands: fields and noise around their means, written in blocks."""
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    rng = np.random.default_rng(seed)
    mean, std = np.array(modality.mean), np.array(modality.std)
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": len(mean), "dtype": "int16", "tiled": True,
        "blockxsize": 256, "blockysize": 256, "compress": "ZSTD", "zstd_level": 1, "crs": "EPSG:32633",
        "transform": from_origin(500_000, 5_100_000, modality.gsd, modality.gsd), "bigtiff": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        for number, band in enumerate(modality.bands, 1):
            dataset.set_band_description(number, band)
        for top in range(0, height, 256):
            rows = min(256, height - top)
            fields = rng.normal(size=(len(mean), -(-rows // 32), -(-width // 32))).repeat(32, 1).repeat(32, 2)
            noise = rng.normal(size=(len(mean), rows, width), scale=0.2)
            values = mean[:, None, None] + std[:, None, None] * (fields[:, :rows, :width] + noise)
            dataset.write(values.round().astype(np.int16), window=Window(0, top, width, rows))


if __name__ == "__main__":
    main()

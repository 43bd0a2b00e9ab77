"""The options of an evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hybrid_patch.config.options import Items, Option, OutputFile, Overrides, Positional
from hybrid_patch.errors import InputError
from hybrid_patch.runs.directory import EVALUATION, PICTURES


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    run: Annotated[Path, Positional("DIR", "the trained run")]
    output: Annotated[
        OutputFile | None,
        Positional(
            "FILE.json",
            "the report, with pictures in a folder beside it, FILE_pictures/ (default: evaluation.json in the run, and "
            "pictures in its pictures/)",
        ),
    ] = None
    compare: Annotated[Items[str], Option("[DIR,DIR]", "more runs for the pictures, as NAME:DIR to name them")] = ()
    overrides: Annotated[
        tuple[str, ...],
        Overrides(
            {
                "data=OPTION": "another source than the run's, as in hybrid-patch train: data=rasters data.root=FOLDER."
                " Its modalities are the run's, normalised as in the run; their bands are found by name",
                "data.KEY=VALUE": "a value of the source",
                "evaluation=OPTION": "full (the default: all tiles, three seeds) or default (a few tiles)",
                "evaluation.KEY=VALUE": "as evaluation.tiles=40, evaluation.knn_pixels=0, evaluation.pooling=concat",
            },
            groups=("data", "evaluation"),
        ),
    ] = ()

    def __post_init__(self) -> None:
        if len(self.others) < len(self.compare):
            raise InputError(f"compare=[{','.join(self.compare)}]: two runs of one name; write [name:DIR,other:DIR]")

    @property
    def others(self) -> dict[str, Path]:
        named = [word.rpartition(":") for word in self.compare]
        return {name or Path(path).name: Path(path) for name, _, path in named}

    @property
    def report(self) -> Path:
        return self.output or self.run / EVALUATION

    @property
    def pictures(self) -> Path:
        return self.run / PICTURES if self.output is None else self.output.with_name(f"{self.output.stem}_pictures")

"""The options of the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hybrid_patch.config.field_types import Amount
from hybrid_patch.config.options import Items, Option, OutputFile, Positional
from hybrid_patch.errors import InputError

PICTURES = 3


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The runs to compare, and what to write about them."""

    folders: Annotated[tuple[Path, ...], Positional("FOLDER", "run directories, or folders with some at any depth")]
    output: Annotated[
        OutputFile, Option("FILE.html", "the page; beside it FILE.json, FILE.csv, FILE.md and FILE_figures/")
    ] = Path("report.html")
    table: Annotated[
        OutputFile | None, Option("FILE.csv|FILE.parquet", "write a table with a row per run to this file, and no page")
    ] = None
    axes: Annotated[
        Items[str],
        Option(
            "[KEY,KEY]",
            "config keys that were swept over, such as [upsampler,optimizer.lr] (default: those of a submitted sweep's "
            "manifest, else what differs among patch, upsampler, curriculum, model, masking and loss)",
        ),
    ] = ()
    pictures: Annotated[Amount, Option("N", "tiles that are drawn by up to eight members; 0: none")] = PICTURES

    def __post_init__(self) -> None:
        if self.output.suffix != ".html":
            raise InputError(f"output={self.output}: not a page's name; write one that ends in .html")
        if self.table is not None and self.table.suffix not in (".csv", ".parquet"):
            raise InputError(f"table={self.table}: not a table's name; write one that ends in .csv or .parquet")

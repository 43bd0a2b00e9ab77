"""Export a run's model: the encoder and its upsampler, what they were trained on, and a model card, in a new folder.

`hybrid_patch.load(FOLDER)`, `embed`, `evaluate` and `init.from` take the folder, and so does a hub as it is.
Exit code: 0 done · 2 bad input.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hybrid_patch.config.command import run_command
from hybrid_patch.config.options import Option, Positional
from hybrid_patch.errors import DONE


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    run: Annotated[Path, Positional("DIR", "the trained run")]
    output: Annotated[Path, Positional("FOLDER", "the exported model, a new folder")]
    license: Annotated[str, Option("NAME", "of the weights, as the card states it")] = "unknown"


def main() -> None:
    run_command("hybrid-patch export", __doc__, ExportOptions, export)


def export(options: ExportOptions) -> int:
    """Write the folder. Returns the exit code. Raises InputError."""
    from hybrid_patch.export.write_export import write_export

    files = write_export(options.run, options.output, options.license)
    total = sum(path.stat().st_size for path in files)
    print(f"{options.output}: {total / 1e6:.1f} MB in {', '.join(path.name for path in files)}")
    return DONE


if __name__ == "__main__":
    main()

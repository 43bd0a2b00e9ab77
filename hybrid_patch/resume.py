"""Train the run whose config is in a directory, or go on with it.

The same training as `hybrid-patch train`, from the directory's own `config.yaml` instead of overrides: how the members
of a submitted sweep start, and how a run is gone on with by hand. Exit codes as there.
"""

import dataclasses
import signal
from pathlib import Path
from typing import Annotated, Any

from hybrid_patch.config.command import run_command
from hybrid_patch.config.options import Option, Positional
from hybrid_patch.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    run: Annotated[Path, Positional("DIR", "the run's directory")]
    root: Annotated[str | None, Option("FOLDER", "where the data are now, if data.root has moved")] = None


def resume(options: ResumeOptions) -> int:
    from hybrid_patch.config.compose import frozen_config

    config = dataclasses.replace(frozen_config(options.run), run_dir=str(options.run))
    if options.root is not None:
        data: Any = config.data
        config = dataclasses.replace(config, data=dataclasses.replace(data, root=options.root))
    root = getattr(config.data, "root", None)
    if root is not None and not Path(root).is_dir():
        key = "root" if options.root else "data.root"
        raise InputError(f"{key}={root}: there is no such folder; root=FOLDER says where the data are now")
    from hybrid_patch.cost.memory_check import check_memory
    from hybrid_patch.cost.peak_flops import peak_flops
    from hybrid_patch.train.attempt import train

    return train(config, check_memory, peak_flops)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to save yet: Ctrl-C ends the imports without a word
    run_command("hybrid-patch resume", __doc__, ResumeOptions, resume)

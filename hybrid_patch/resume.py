"""Train the run that is frozen in a directory: `python -m hybrid_patch.resume <run directory>`.

The same training as `python -m hybrid_patch.train`, from the directory's own `config.yaml` instead of overrides: how
the members of a submitted sweep start, and how a run is gone on with by hand. Exit codes as there.
"""

import signal
import sys
from pathlib import Path

from hybrid_patch.config.options import wait_briefly
from hybrid_patch.errors import InputError, input_errors_end


def main() -> None:
    """The command."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return
    wait_briefly()
    with input_errors_end():
        if len(arguments) != 1:
            raise InputError(f"{' '.join(arguments) or 'no arguments'}: takes one argument, the directory of a run")
        import dataclasses

        from hybrid_patch.config.frozen import frozen_config

        folder = Path(arguments[0])
        config = dataclasses.replace(frozen_config(folder), run_dir=str(folder))
        from hybrid_patch.train.attempt import train

        sys.exit(train(config))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to save yet: Ctrl-C ends the imports without a word
    main()

"""Score a trained run's embeddings of every pixel: on its own data, or on others (`data=rasters data.root=FOLDER`).

Classifiers of every pixel's class (linear, and the 20 nearest neighbours) learn from the frozen embeddings of training
tiles, with all and with few labels, and are scored on pixels of validation tiles. Baselines: raw bands, random features
of them, local means and deviations, 8 × 8 means, the untrained model, and each 8 × 8 pixels' true majority.
Exit code: 0 done · 2 bad input · 75 stopped by a signal, 130 by Ctrl-C, with nothing written.
"""

import signal
import sys

from rich.console import Console

from hybrid_patch.config.command import run_command
from hybrid_patch.errors import DONE, INTERRUPTED, STOPPED, require_extra
from hybrid_patch.evaluate.options import EvaluateOptions
from hybrid_patch.runs.progress import start_logging
from hybrid_patch.runs.stop_signal import Stopped, stop_requests


def main() -> None:
    run_command("hybrid-patch evaluate", __doc__, EvaluateOptions, evaluate_command)


def evaluate_command(options: EvaluateOptions) -> int:
    require_extra("eval", "scipy", "matplotlib")
    with stop_requests() as stop:
        from hybrid_patch.evaluate.evaluation import evaluate_run
        from hybrid_patch.evaluate.tables import tables, verdict_lines

        start_logging(None, quiet=False)
        try:
            report = evaluate_run(options, stop.check)
        except (Stopped, KeyboardInterrupt):
            print("stopped; nothing was written", file=sys.stderr)
            return INTERRUPTED if stop.signal in (None, signal.SIGINT) else STOPPED
    Console(width=None if sys.stdout.isatty() else 130).print(*tables(report), *verdict_lines(report))
    print(f"{options.report}, pictures in {options.pictures}")
    return DONE


if __name__ == "__main__":
    main()

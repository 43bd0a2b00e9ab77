"""Train a run, or with -m a sweep of runs; the same command again goes on with what is not done.

Exit code: 0 done · 75 stopped by a signal with its state saved (start it again and it goes on) · 2 bad input ·
76 another attempt has taken the run over · 1 other (130: a second Ctrl-C, which does not wait for the end of the step).
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to save yet: Ctrl-C ends the imports without a word

from hybrid_patch.config.before_torch import before_torch
from hybrid_patch.config.hydra_main import hydra_command
from hybrid_patch.config.schema import Config


def train(config: Config) -> int:
    before_torch()
    from hybrid_patch.cost.memory_check import check_memory
    from hybrid_patch.cost.peak_flops import peak_flops
    from hybrid_patch.train import attempt

    return attempt.train(config, check_memory, peak_flops)


if __name__ == "__main__":
    hydra_command(__doc__, train)

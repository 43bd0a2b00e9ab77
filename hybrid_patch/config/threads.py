"""How CPU threads wait for each other. To be called before torch is imported: OpenMP reads it once."""

import os

SPINS = "1000"
"""Turns that a waiting thread of GNU's OpenMP spins before it sleeps: a few microseconds.

Threads that sleep at once double the time of a small step on a quiet machine, since each of its many short parallel
parts has to wake them; threads that spin for long make a step many times slower where something else runs too. Seen on
2 cores, nano at patch size 8: 58 ms and 33 ms a step with 0 and 1,000 spins on the quiet machine (docs/performance.md
has the command), 51 ms and 79 ms beside one busy process; with 100,000 spins, 400 ms beside it.
"""


def wait_briefly() -> None:
    """Let waiting threads spin for a moment and then sleep, unless the environment says otherwise."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

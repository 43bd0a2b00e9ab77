"""The peak is that of what was allocated in between, even when it is gone again."""

import numpy as np
import torch

from hybrid_patch.train.peak_memory import PeakMemory

MIB = 2**20


def test_the_peak_counts_what_was_there_and_is_gone() -> None:
    np.ones(300 * MIB, np.uint8)  # before the start, and gone
    memory = PeakMemory(torch.device("cpu"))
    assert memory.bytes() < 50 * MIB
    block = np.ones(200 * MIB, np.uint8)
    del block
    assert 150 * MIB < memory.bytes() < 300 * MIB

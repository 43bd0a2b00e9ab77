"""How fast a training is: samples per second, and the share of the device's peak."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybrid_patch.config.curriculum import PatchSizes

LINES = 20
"""Lines of the metrics, the last ones, that speeds are of."""


@dataclass(frozen=True)
class PeakFlops:
    """What a process computes, and what its device can.

    Attributes:
        of_step: FLOPs of a step of one process, by patch sizes; what is recomputed in the backward pass counts too.
        peak: FLOP/s of its device at the precision of the blocks.
    """

    of_step: Mapping[PatchSizes, float]
    peak: float


class Throughput:
    """The speed over the last lines, with the wait for data and without evaluations and checkpoints."""

    def __init__(self, batch_size: int, flops: PeakFlops | None) -> None:
        self.batch_size, self.flops = batch_size, flops
        self._lines: deque[tuple[float, int, float]] = deque(maxlen=LINES)

    def add(self, seconds: float, sizes: Sequence[PatchSizes]) -> None:
        """Add the steps of a line, by the patch sizes of each."""
        flops = sum(self.flops.of_step[each] for each in sizes) if self.flops else 0.0
        self._lines.append((seconds, len(sizes), flops))

    def text(self) -> str:
        """`25.6 samples/s`, and ` 41% of peak` if the device's peak is known."""
        seconds, steps, flops = (sum(column) for column in zip(*self._lines, strict=True))
        speed = f"{steps * self.batch_size / seconds:.3g} samples/s"
        return f"{speed}  {flops / seconds / self.flops.peak:.0%} of peak" if self.flops else speed

"""TensorBoard's event files, written by tensorboardX, which needs no TensorFlow and no TensorBoard."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid_patch.errors import require_extra
from hybrid_patch.runs.directory import TENSORBOARD
from hybrid_patch.train.loggers.backend import Backend, LoggedRun

FLUSH_SECONDS = 10
"""Between writes to the disk."""


class TensorboardBackend(Backend):
    """Event files in the run's folder, one per start; the later steps of earlier starts are hidden."""

    def __init__(self, run: LoggedRun) -> None:
        require_extra("tensorboard", "tensorboardX")
        from tensorboardX import SummaryWriter

        folder = run.directory.path / TENSORBOARD
        self.writer = SummaryWriter(str(folder), purge_step=run.step + 1, flush_secs=FLUSH_SECONDS)

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def log_pictures(self, step: int, paths: Sequence[Path]) -> None:
        import numpy as np
        from PIL import Image  # comes with matplotlib, which has drawn them

        for path in paths:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            self.writer.add_image(f"eval/{path.stem}", pixels, step, dataformats="HWC")

    def close(self) -> str:
        self.writer.close()
        return ""

"""The evaluations within a training: of the embeddings, and of a head on validation tiles."""

import logging
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from hybrid_patch.config.curriculum import sizes_after
from hybrid_patch.config.schema import Config
from hybrid_patch.data.source import Source
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.errors import InputError, require_extra
from hybrid_patch.evaluate.head_scores import validation_scores
from hybrid_patch.model.hybrid import HybridModel
from hybrid_patch.runs.directory import EVALUATED, EVALUATING, RunDirectory
from hybrid_patch.runs.lock import LostLockError
from hybrid_patch.runs.progress import Show, share_progress
from hybrid_patch.runs.stop_signal import Check, Stopped, StopRequest
from hybrid_patch.train import checkpointing
from hybrid_patch.train.distributed import any_process
from hybrid_patch.train.metric_logger import MetricLogger
from hybrid_patch.train.step import TrainingModule

CHECK_SECONDS = 1.0
"""Between looks of an evaluation at whether to stop."""
STATUS_SECONDS = 2.0
"""Between reports of an evaluation to the run's status."""

log = logging.getLogger(__name__)


class Evaluations:
    """Evaluates the weights of a training as they are.

    All processes call a method at once: the first evaluates, and asks the others every now and then whether to stop.
    Then Stopped is raised in all.
    """

    def __init__(
        self, config: Config, fabric: Fabric, run: RunDirectory, source: Source, module: TrainingModule
    ) -> None:
        self.config, self.fabric, self.run, self.source, self.module = config, fabric, run, source, module

    def row(self, step: int) -> dict[str, Any]:
        """The metrics of a step that was made before, in all processes."""
        row: dict[str, Any] = {"step": step}
        if self.fabric.is_global_zero:
            row = next((each for each in self.run.metrics() if each["step"] == step), row)
        return self.fabric.broadcast(row)

    def evaluate(self, row: dict[str, Any], weights_of: int, logger: MetricLogger, stop: StopRequest) -> None:
        """Add the scores of the embeddings to the metrics of a step, beside evaluation.json and pictures.

        The weights are those after the step `weights_of`. An error is logged, and there are no scores.
        """
        network = checkpointing.full_model(self.fabric, self.config, self.module)
        if network is not None:
            self.run.set_status("running", EVALUATING, step=row["step"])
            log.info("evaluating after step %d", row["step"])
            began = time.perf_counter()
            try:
                with self._evaluating(network, weights_of) as model:
                    scores, pictures = self._evaluate(model, self._check(stop), row["step"])
                row |= scores
                logger.log_pictures(row["step"], pictures)
            except (LostLockError, Stopped):
                raise
            except Exception:
                log.exception("the evaluation after step %d failed; the training goes on", row["step"])
            row[EVALUATED] = time.perf_counter() - began
            self.run.replace_metrics(row)
            self.run.set_status("running", step=row["step"])
        self._wait(stop, network is not None)
        logger.log_metrics(row)

    def validate(self, row: dict[str, Any], max_tiles: int | None, stop: StopRequest) -> dict[str, float]:
        """The scores of the head on validation tiles, also added to the metrics of the last step."""
        network = checkpointing.full_model(self.fabric, self.config, self.module)
        scores: dict[str, float] = {}
        if network is not None:
            self.run.set_status("running", EVALUATING, step=row["step"])
            with self._evaluating(network, row["step"]) as model, self._shown(row["step"]) as show:
                scores = dict(validation_scores(model, self.source, max_tiles, self._check(stop), show))
            self.run.set_status("running", step=row["step"])
        self._wait(stop, network is not None)
        scores = self.fabric.broadcast(scores)
        row |= {f"validation_{name}": None if math.isnan(x) else x for name, x in scores.items()}
        if self.fabric.is_global_zero:
            self.run.replace_metrics(row)
        log.info("step %d, validation: %s", row["step"], ", ".join(f"{name} {x:.3f}" for name, x in scores.items()))
        return scores

    def _check(self, stop: StopRequest) -> Check:
        """What an evaluation calls: it ends in all processes if one was asked to stop, or the run is lost."""
        last = -math.inf

        def check() -> None:
            nonlocal last
            if time.monotonic() - last > CHECK_SECONDS:
                with self.run.held():
                    last = time.monotonic()
                self._ended(stop, False)

        return check

    def _wait(self, stop: StopRequest, ended: bool) -> None:
        while not self._ended(stop, ended):
            pass

    def _ended(self, stop: StopRequest, ended: bool) -> bool:
        """Whether the evaluation of the first process has ended; all call this at once. Raises Stopped in all."""
        stopping, ended = any_process(self.fabric, bool(stop), ended)
        if stopping and not ended:
            raise Stopped("in the evaluation after step")
        return ended

    @contextmanager
    def _evaluating(self, network: HybridModel, weights_of: int) -> Iterator[TrainedModel]:
        """The model, in evaluation mode inside the block."""
        sizes, modalities = sizes_after(self.config, weights_of), self.source.modalities
        network.eval().to(self.fabric.device)
        try:
            yield TrainedModel(self.run.path, self.config, modalities, sizes, weights_of, network)
        finally:
            network.train()

    @contextmanager
    def _shown(self, step: int) -> Iterator[Show]:
        """Show an evaluation in the log, and in the run's status."""
        began, last = time.monotonic(), -math.inf
        with share_progress("evaluating", bar=False) as log_line:

            def show(done: float | int, total: float | int, text: str) -> None:
                nonlocal last
                log_line(done, total, text)
                now = time.monotonic()
                if now - last > STATUS_SECONDS:
                    last = now
                    ends = time.time() + (now - began) * (total - done) / done
                    work = {"evaluated": round(done), "evaluation_work": round(total), "evaluation_ends": ends}
                    self.run.set_status("running", EVALUATING, step=step, **work)

            yield show

    def _evaluate(self, model: TrainedModel, check: Check, step: int) -> tuple[dict[str, float], list[Path]]:
        from hybrid_patch.evaluate.evaluation import evaluate, write_evaluation  # imported late: see `attempt`

        with tempfile.TemporaryDirectory() as folder, self._shown(step) as show:
            settings = self.config.evaluation
            report, drawn = evaluate(model, self.source, settings, Path(folder), check=check, show=show)
            with self.run.held():
                pictures = write_evaluation(self.run.evaluation, report, self.run.pictures, drawn)
        scores: dict[str, float] = report["scores"]
        line = "".join(f"{name} {value:.3f}  " for name, value in scores.items())
        log.info("%s%d pictures in %s", line, len(pictures), self.run.pictures)
        return scores, pictures


def missing_evaluation() -> str:
    """The line that names the extra that evaluation lacks; empty if it is installed."""
    try:
        require_extra("eval", "scipy", "matplotlib")
    except InputError as error:
        return str(error)
    return ""

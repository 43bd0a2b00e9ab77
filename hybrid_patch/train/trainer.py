"""The training loop."""

import dataclasses
import logging
import math
import time
from typing import Any

from lightning_fabric import Fabric

from hybrid_patch.config.curriculum import PatchSizes, samples_before, sizes_at
from hybrid_patch.config.schema import Config
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.loader import TrainingSteps, batches
from hybrid_patch.data.prefetch import on_device
from hybrid_patch.data.source import BrokenSampleError, Source
from hybrid_patch.data.taught import TaughtWindows
from hybrid_patch.errors import DONE, FAILED, STOPPED
from hybrid_patch.runs.checkpoints import Checkpoint
from hybrid_patch.runs.directory import EVALUATED, RunDirectory
from hybrid_patch.runs.progress import progress
from hybrid_patch.runs.stop_signal import Stopped, StopRequest
from hybrid_patch.train import checkpointing
from hybrid_patch.train.best_weights import BestWeights
from hybrid_patch.train.distributed import any_process, end_together
from hybrid_patch.train.evaluations import Evaluations, missing_evaluation
from hybrid_patch.train.loggers.backend import LoggedRun
from hybrid_patch.train.metric_logger import MetricLogger, open_logger
from hybrid_patch.train.optimizer import learning_rate
from hybrid_patch.train.peak_memory import PeakMemory
from hybrid_patch.train.profile import traced
from hybrid_patch.train.step import FabricStep, TrainingModule
from hybrid_patch.train.step_metrics import StepMetrics
from hybrid_patch.train.throughput import PeakFlops, Throughput

MIN_SAMPLES = 50
"""The share of skipped samples is taken of at least this many."""

log = logging.getLogger(__name__)


class Trainer:
    """The training loop and its state.

    A step depends on the weights, the optimizer and (seed, step) alone: a checkpoint holds these and a few counters.
    """

    def __init__(
        self,
        config: Config,
        fabric: Fabric,
        run: RunDirectory,
        source: Source,
        module: TrainingModule,
        checkpoint: Checkpoint | None,
        taught: TaughtWindows | None = None,
        flops: PeakFlops | None = None,
    ) -> None:
        self.config, self.fabric, self.run, self.source, self.module = config, fabric, run, source, module
        self.taught = taught
        self.steps = config.trainer.steps
        self.training_step = FabricStep(module, config, fabric)
        self.step = 0
        self.saved = -1
        self.metrics = StepMetrics(fabric.world_size)
        self.memory = PeakMemory(fabric.device)
        self.throughput = Throughput(config.trainer.batch_size, flops)
        begun = config.continue_from
        if checkpoint is not None and begun is not None and checkpoint.step == begun.step:
            checkpoint = checkpointing.of_another_run(fabric, module, checkpoint, begun.run)
        self.best = BestWeights(config, source, checkpoint)
        self._resume(checkpoint)
        self.evaluations = Evaluations(config, fabric, run, source, module)
        self.logger = MetricLogger()
        if fabric.is_global_zero:
            run.set_status("running", attempt=run.status().attempt + 1, step=self.step, steps=self.steps)
            logged = LoggedRun(run, run.identity()["run_id"], config.sweep_name, dataclasses.asdict(config), self.step)
            self.logger = open_logger(config.logger, logged)

    def fit(self, stop: StopRequest) -> tuple[int, str]:
        """Train to the last step, or until asked to stop. Returns the exit code, and why if it is not 0.

        An evaluation that an earlier attempt did not end comes first.
        """
        try:
            if self.best.due(self.step):
                self._validate(self.evaluations.row(self.step), stop)
            if (row := self._row_to_evaluate()) is not None:
                self._evaluate(row, stop)
            code, reason = (DONE, "") if self._finished() else self._train(stop)
            if code == DONE:
                self._end()
            return code, reason
        except Stopped as stopped:
            self._save()
            name = stop.signal.name if stop.signal else "a signal to another process"
            return STOPPED, f"stopped by {name} {stopped} {self.step}, saved"

    def _train(self, stop: StopRequest) -> tuple[int, str]:
        config, fabric, metrics = self.config, self.fabric, self.metrics
        dataset = TrainingSteps(self.source, config, fabric.global_rank, fabric.world_size, self.taught)
        self.memory.reset()
        staged = len(config.curriculum.stages) > 1 and config.curriculum.order == "in_turn"
        logged: PatchSizes | None = None
        quiet, profiled = not fabric.is_global_zero, config.runtime.profile if fabric.is_global_zero else 0
        interrupted = [self._interrupted(step) for step in range(self.step + 1, self.steps + 1)] if profiled else []
        with (
            progress(self.run.path.name, self.step, self.steps, quiet) as report,
            traced(profiled, interrupted, self.training_step, self.run) as step_ends,
        ):
            waiting = time.perf_counter()
            loaded = batches(dataset, self.step, config.runtime.workers, pin_memory=fabric.device.type == "cuda")
            for item in on_device(loaded, fabric.device):
                broken, stopping = any_process(fabric, isinstance(item, BrokenSampleError), bool(stop))
                if broken:
                    self._save()
                    hint = "data.on_error=skip goes on without"
                    end_together(fabric, f"{item}; {hint}" if isinstance(item, BrokenSampleError) else "")
                if stopping:
                    raise Stopped("after step")
                assert isinstance(item, Batch)
                sizes = sizes_at(config, self.step)
                if staged and sizes != logged:
                    log.info("from step %d: processed at %d, output at %d", self.step + 1, *sizes)
                    logged = sizes
                began = time.perf_counter()
                self._train_step(item, sizes)
                if row_due := self._row_due():
                    metrics.wait()
                metrics.add_time(time.perf_counter() - began, began - waiting)
                step_ends()
                if row_due:
                    row = self._add_row()
                    report(self.step, row["loss"] if row["loss"] is not None else math.nan, self.throughput.text())
                    failure = self._failure()
                    if self.best.due(self.step):
                        self._validate(row, stop)
                    every = config.trainer.checkpoint_every
                    if self._finished() or failure or (every and self.step % every == 0):
                        self._save()
                    if failure or not self._evaluation_due():
                        self.logger.log_metrics(row)
                    else:
                        self._evaluate(row, stop)
                    if failure:
                        return FAILED, failure
                    if self._finished():
                        break
                waiting = time.perf_counter()
        return DONE, ""

    def _train_step(self, batch: Batch, sizes: PatchSizes) -> None:
        """One optimizer step, without waiting for the device."""
        lr = learning_rate(self.config.optimizer, self.step, self.steps)
        for group in self.training_step.optimizer.param_groups:
            group["lr"] = lr
        self.metrics.add(self.training_step.run(batch, sizes), sizes, lr)
        for message in batch.skipped:
            log.warning("skipped %s", message)
        self.step += 1

    def _row_due(self) -> bool:
        """Whether the metrics get a line after this step: also where weights are saved or scored, which wait anyway."""
        every = self.config.trainer.log_every
        return self._interrupted(self.step) or bool(every and self.step % every == 0)

    def _interrupted(self, step: int) -> bool:
        """Whether something else than a training step comes after a step: weights are saved or scored."""
        periods = (self.config.trainer.checkpoint_every, self.config.evaluation.every)
        return step == self.steps or self.best.due(step) or any(every and step % every == 0 for every in periods)

    def _add_row(self) -> dict[str, Any]:
        """Write the metrics since the last line."""
        self.throughput.add(self.metrics.seconds, self.metrics.sizes)
        row = self.metrics.row(self.step) | {"peak_memory_bytes": self.memory.bytes()}
        if self.fabric.is_global_zero:
            self.run.add_metrics(row)
        return row

    def _failure(self) -> str:
        """Why the run must stop; empty if it need not."""
        bad, max_bad = self.metrics.longest_bad, self.config.trainer.max_bad_steps
        if bad >= max_bad:
            return f"no finite loss in {bad} steps in a row (trainer.max_bad_steps={max_bad}), saved"
        skipped, share = self.metrics.counters["skipped"], self.config.data.max_skipped
        samples = max(samples_before(self.config, self.step), MIN_SAMPLES)
        if skipped > share * samples:
            return f"{skipped} broken samples of {samples} skipped, more than data.max_skipped={share}, saved"
        return ""

    def _finished(self) -> bool:
        """Whether the last step has been made."""
        return self.step == self.steps or self.best.stalled

    def _evaluation_due(self) -> bool:
        """Whether an evaluation belongs to the last step that was made."""
        settings, last = self.config.evaluation, self._finished()
        if settings.tiles == 0 or not self.step or not (last or (settings.every and self.step % settings.every == 0)):
            return False
        missing = missing_evaluation()
        if missing and last and self.fabric.is_global_zero:
            log.warning("no evaluation: %s", missing)
        return not missing

    def _row_to_evaluate(self) -> dict[str, Any] | None:
        """The metrics of the step before, whose evaluation an earlier attempt did not end; None if it did."""
        row = self.evaluations.row(self.step) if self._evaluation_due() else {EVALUATED: 0.0}
        return None if EVALUATED in row else row

    def _validate(self, row: dict[str, Any], stop: StopRequest) -> None:
        """Score the weights on validation tiles, and save them if they are the best."""
        if self.best.add(self.step, self.evaluations.validate(row, self.best.max_tiles, stop)):
            self._save()

    def _evaluate(self, row: dict[str, Any], stop: StopRequest) -> None:
        """Evaluate the weights: at the end of a training those that it ends with."""
        weights_of = self.step
        if self._finished() and self.best.step is not None:
            weights_of = self.best.step
            checkpointing.restore_weights(self.fabric, self.run, self.module, weights_of)
        self.evaluations.evaluate(row, weights_of, self.logger, stop)

    def _end(self) -> None:
        """Leave the best weights as those of the newest checkpoint."""
        if (best := self.best.step) is not None:
            log.info("step %d scored best on validation tiles: its weights are those of the run", best)
            checkpointing.end_with(self.fabric, self.run, best)

    def _save(self) -> None:
        if self.saved == self.step:
            return
        if len(self.metrics):  # a stop between two lines
            self.logger.log_metrics(self._add_row())
        state = {
            "model": self.module.model.state_dict(),
            "objective": self.module.objective.state_dict(),
            "optimizer": self.training_step.optimizer.state_dict(),
            "counters": self.metrics.counters,
            "modalities": {name: dataclasses.asdict(m) for name, m in self.source.modalities.items()},
            "classes": list(self.module.model.classes),
            **self.best.state(),
        }
        checkpointing.save(
            self.fabric, self.run, self.step, state, self.config.trainer.keep_checkpoints, self.best.step
        )
        self.saved = self.step

    def _resume(self, checkpoint: Checkpoint | None) -> None:
        """Continue from a checkpoint, if there is one."""
        if checkpoint is not None:
            checkpointing.restore(self.fabric, self.module, self.training_step.optimizer, checkpoint)
            self.step = self.saved = checkpoint.step
            counters = self.metrics.counters = checkpoint.state["counters"]
            if counters["bad_in_a_row"] >= self.config.trainer.max_bad_steps:
                counters["bad_in_a_row"] = 0  # a run that gave up gets another try
            log.info("going on after step %d", self.step)
        if self.fabric.is_global_zero:
            self.run.restore_metrics(self.step)

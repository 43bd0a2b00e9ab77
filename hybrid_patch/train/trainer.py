"""The training loop and its state."""

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes, sizes_after, sizes_at
from hybrid_patch.config.recipe import run_id
from hybrid_patch.config.schema import Config
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.loader import TrainingSteps, batches
from hybrid_patch.data.prefetch import on_device
from hybrid_patch.data.source import BrokenSampleError, Source
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.errors import DONE, FAILED, STOPPED
from hybrid_patch.loss.objective import Objective
from hybrid_patch.model.hybrid import HybridModel
from hybrid_patch.runs.atomic_files import write_json
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.lock import LostLockError
from hybrid_patch.runs.progress import progress
from hybrid_patch.runs.stop_signal import StopRequest
from hybrid_patch.train import checkpointing
from hybrid_patch.train.distributed import end_together
from hybrid_patch.train.fsdp import whole
from hybrid_patch.train.metric_logger import MetricLogger, open_logger
from hybrid_patch.train.optimizer import learning_rate, optimizer_of
from hybrid_patch.train.peak_memory import PeakMemory
from hybrid_patch.train.step import backpropagate

SKIPPED = "skipped samples"
FEW_SAMPLES = 50
"""The share of skipped samples is judged as if at least so many had been seen."""

log = logging.getLogger(__name__)


class Trainer:
    """The training loop and its state.

    What a step computes depends on the weights, the optimizer and (seed, step) alone, so that these and a few counters
    are all that a checkpoint holds.
    """

    def __init__(self, config: Config, fabric: Fabric, run: RunDirectory, source: Source, objective: Objective) -> None:
        self.config, self.fabric, self.run, self.source, self.objective = config, fabric, run, source, objective
        self.steps = config.trainer.steps
        self.forward = fabric.setup_module(objective)  # first: sharding replaces the parameters
        self.optimizer: Any = fabric.setup_optimizers(optimizer_of(objective, config.optimizer))
        self.step = 0
        self.said: PatchSizes | None = None
        self.counters = {"bad_steps": 0, "bad_in_a_row": 0, "skipped": 0}
        self._resume()
        self.logger = MetricLogger()
        if fabric.is_global_zero:
            run.set_status("running", attempt=run.status().get("attempt", 0) + 1, step=self.step, steps=self.steps)
            self.logger = open_logger(config.logger, run_id(config), run.path, dataclasses.asdict(config))

    def fit(self, stop: StopRequest) -> tuple[int, str]:
        """Train to the last step, or until asked to stop. Returns the exit code, and why if it is not 0."""
        config, fabric = self.config, self.fabric
        dataset = TrainingSteps(self.source, config, fabric.global_rank, fabric.world_size)
        memory = PeakMemory(fabric.device)
        with progress(self.run.path.name, self.step, self.steps, quiet=not fabric.is_global_zero) as report:
            waiting = time.perf_counter()
            on_gpu = fabric.device.type == "cuda"
            loaded = batches(dataset, self.step, config.runtime.workers, pin_memory=on_gpu)
            for item in on_device(loaded, fabric.device):
                broken, stopping = self._agreed(isinstance(item, BrokenSampleError), bool(stop))
                if broken or stopping:
                    self._save()
                    self._end_if_broken(item)
                    name = stop.signal.name if stop.signal else "a signal to another process"
                    return STOPPED, f"stopped by {name} after step {self.step}, saved"
                assert isinstance(item, Batch)
                sizes = sizes_at(config, self.step)
                self._say_stage(sizes)
                began = time.perf_counter()
                row = self._train_step(item, sizes)
                seconds = time.perf_counter() - began
                self.step += 1
                row = {"step": self.step, **row}
                row |= {"step_seconds": seconds, "data_seconds": began - waiting, "peak_memory_bytes": memory.bytes()}
                last = self.step == self.steps
                if last or (config.evaluation.every and self.step % config.evaluation.every == 0):
                    row |= self._evaluate()
                self._record(row)
                report(self.step, row["loss"] if row["loss"] is not None else math.nan)
                failure = self._failure()
                every = config.trainer.checkpoint_every
                if last or failure or (every and self.step % every == 0):
                    self._save()
                if failure:
                    return FAILED, failure
                waiting = time.perf_counter()
        return DONE, ""

    def _say_stage(self, sizes: PatchSizes) -> None:
        """A line where a stage of the curriculum begins, or is gone on with."""
        curriculum = self.config.curriculum
        if len(curriculum.stages) > 1 and curriculum.order == "in_turn" and sizes != self.said:
            log.info("from step %d: processed at %d, output at %d", self.step + 1, sizes.processing, sizes.output)
            self.said = sizes

    def _train_step(self, batch: Batch, sizes: PatchSizes) -> dict[str, Any]:
        """One optimizer step; a loss or gradient that is not finite changes nothing but the counters."""
        config = self.config
        lr = learning_rate(config.optimizer, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        terms = backpropagate(
            self.forward,
            self.objective.shares,
            batch,
            sizes,
            config.runtime.accumulate,
            self.fabric.backward,
            lambda hold: self.fabric.no_backward_sync(self.forward, enabled=hold),
        )
        norm = self.fabric.clip_gradients(
            self.objective, self.optimizer, max_norm=config.optimizer.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None
        skipped = terms["loss"].new_full((), len(batch.skipped))
        values = self._means({**terms, "grad_norm": whole(norm), SKIPPED: skipped})
        finite = (values["loss"] + values["grad_norm"]).isfinite()
        # Whether to step is decided where the numbers are: asking for them would wait for the device.
        self.optimizer.optimizer.found_inf = (~finite).float()  # GradScaler's word for it
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {
            **self._row(values, batch.skipped),
            "lr": lr,
            "bad_steps": self.counters["bad_steps"],
            "skipped": self.counters["skipped"],
            "processing_patch_size": sizes.processing,
            "output_patch_size": sizes.output,
        }

    def _means(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Averaged over all processes, on their device."""
        means = self.fabric.all_reduce(torch.stack(list(values.values())), reduce_op="mean")
        assert isinstance(means, Tensor)
        return dict(zip(values, means.unbind(), strict=True))

    def _row(self, means: dict[str, Tensor], skipped: Sequence[str]) -> dict[str, float | None]:
        """The step's figures, None where they are not finite, and what they are counted as. Waits for the device."""
        for message in skipped:
            log.warning("skipped %s", message)
        values = dict(zip(means, torch.stack(list(means.values())).tolist(), strict=True))
        self.counters["skipped"] += round(values.pop(SKIPPED) * self.fabric.world_size)
        finite = math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])
        self.counters["bad_steps"] += not finite
        self.counters["bad_in_a_row"] = 0 if finite else self.counters["bad_in_a_row"] + 1
        return {name: value if math.isfinite(value) else None for name, value in values.items()}

    def _failure(self) -> str:
        """Why the run must not go on; empty if it may."""
        bad, most_bad = self.counters["bad_in_a_row"], self.config.trainer.max_bad_steps
        if bad >= most_bad:
            return f"no finite loss in {bad} steps in a row (trainer.max_bad_steps={most_bad}), saved"
        skipped, share = self.counters["skipped"], self.config.data.max_skipped
        seen = max(self.step * self.config.trainer.batch_size, FEW_SAMPLES)
        if skipped > share * seen:
            return f"{skipped} broken samples of {seen} skipped, more than data.max_skipped={share}, saved"
        return ""

    def _agreed(self, *mine: bool) -> tuple[bool, ...]:
        """Which of some things are true in any process."""
        if self.fabric.world_size == 1:
            return mine
        flags = torch.tensor(mine, dtype=torch.float32, device=self.fabric.device)
        return tuple(bool(flag) for flag in self.fabric.all_reduce(flags, reduce_op="sum"))

    def _end_if_broken(self, item: Batch | BrokenSampleError) -> None:
        """End all processes if the item of any of them is a broken sample."""
        messages = [f"{item}; data.on_error=skip goes on without" if isinstance(item, BrokenSampleError) else ""]
        if self.fabric.world_size > 1:
            mine, messages = messages[0], [""] * self.fabric.world_size
            torch.distributed.all_gather_object(messages, mine)
        end_together(self.fabric, next(filter(None, messages), ""))

    def _record(self, row: dict[str, Any]) -> None:
        if self.fabric.is_global_zero:
            self.run.add_metrics(row)
            self.logger.log_metrics(row)

    def _evaluate(self) -> dict[str, float]:
        """Scores of the embeddings, for the metrics; evaluation.json and pictures on the way.

        What goes wrong here must not cost the training: it is said, and there are no scores.
        """
        scores: dict[str, float] = {}
        wanted = self.config.evaluation.tiles != 0
        network = checkpointing.whole_network(self.fabric, self.config, self.objective) if wanted else None
        if network is not None:
            log.info("evaluating after step %d", self.step)
            try:
                scores = self._look(network)
            except LostLockError:
                raise
            except Exception:
                log.exception("the evaluation after step %d failed; the training goes on", self.step)
        self.fabric.barrier()
        return scores

    def _look(self, network: HybridModel) -> dict[str, float]:
        from hybrid_patch.evaluate.evaluation import evaluate  # imported late: see `attempt`

        sizes = sizes_after(self.config, self.step)
        network.eval().to(self.fabric.device)
        model = TrainedModel(self.run.path, self.config, self.source.modalities, sizes, self.step, network)
        try:
            with self.run.held():  # an attempt that has lost the run draws nothing
                self.run.pictures.mkdir(exist_ok=True)
            report, pictures = evaluate(model, self.source, self.config.evaluation, self.run.pictures)
        finally:
            network.train()
        with self.run.held():
            write_json(self.run.evaluation, report)
        scores: dict[str, float] = report["scores"]
        self.logger.log_pictures(self.step, pictures)
        found = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        log.info("%s%d pictures in %s", f"{found}  " if found else "", len(pictures), self.run.pictures)
        return scores

    def _save(self) -> None:
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counters": self.counters,
            "modalities": {name: dataclasses.asdict(m) for name, m in self.source.modalities.items()},
        }
        checkpointing.save(self.fabric, self.run, self.step, state, self.config.trainer.keep_checkpoints)

    def _resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = checkpointing.newest(self.fabric, self.run.checkpoints)
        if found is not None:
            self.step, state = found
            checkpointing.restore(self.objective, self.optimizer.optimizer, state)
            self.counters = dict(state["counters"])
            if self.counters["bad_in_a_row"] >= self.config.trainer.max_bad_steps:
                self.counters["bad_in_a_row"] = 0  # a run that gave up gets another try
            log.info("going on after step %d", self.step)
        if self.fabric.is_global_zero:
            kept = self.run.truncate_metrics(self.step)
            if kept < self.step:
                log.warning("metrics.jsonl has only %d of the first %d steps", kept, self.step)

"""Train one run: `python -m hybrid_patch.train [overrides]`, or several with `-m`. Read it from top to bottom.

Exit code: 0 done · 75 stopped by a signal with its state saved (start it again and it goes on) · 2 bad input · 1 other.
"""

if __name__ == "__main__":
    from hybrid_patch.config.front import check_command_line

    check_command_line()  # bad input ends here, before anything heavy is imported

import dataclasses
import logging
import math
import time
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from hybrid_patch import checkpoint
from hybrid_patch.config.recipe import difference, recipe, recipe_hash, run_directory, run_id
from hybrid_patch.config.schema import Config, Optimizer, Runtime
from hybrid_patch.cost.memory import PeakMemory
from hybrid_patch.curriculum import sizes_at
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.loading import TrainingSteps, batches
from hybrid_patch.data.registry import open_source
from hybrid_patch.data.sample import Source
from hybrid_patch.errors import InputError
from hybrid_patch.logger import Mirror, NoMirror, open_mirror
from hybrid_patch.loss.objective import Objective
from hybrid_patch.probing.evaluate import evaluate
from hybrid_patch.progress import progress, start_logging
from hybrid_patch.run_directory import RunDirectory
from hybrid_patch.signals import StopRequest, stop_requests

DONE, FAILED, STOPPED = 0, 1, 75
FEW_SAMPLES = 50
"""The share of skipped samples is judged as if at least so many had been seen."""

log = logging.getLogger(__name__)


def train(config: Config) -> int:
    """Train the run that a config describes, or go on with it, and evaluate it. Returns the exit code.

    Raises InputError for bad input that shows only now: a broken sample, a directory that holds another run.
    """
    fabric = open_fabric(config)
    run = RunDirectory(run_directory(config))
    if fabric.is_global_zero:
        prepare(run, config)
        start_logging(run.log)
    fabric.barrier()
    if run.status().get("state") == "done":
        log.info("%s is done already", run.path)
        return DONE
    source = open_source(config.data)
    torch.manual_seed(config.seed)
    objective = Objective(config, source.modalities)
    trainer = Trainer(config, fabric, run, source, objective)
    with stop_requests() as stop:
        try:
            code, reason = trainer.fit(stop)
        except BaseException as error:
            trainer.set_status("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            trainer.mirror.close()
    trainer.set_status({DONE: "done", STOPPED: "preempted", FAILED: "failed"}[code], reason)
    log.info("%s%s", run.path, f": {reason}" if reason else "")
    return code


def open_fabric(config: Config) -> Fabric:
    """Lightning Fabric on the configured devices, its processes started."""
    runtime = config.runtime
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    # Only a curriculum can leave parameters out of a step: an upsampler's later stages.
    ddp = DDPStrategy(find_unused_parameters=len(config.curriculum.stages) > 1)
    fabric = Fabric(
        accelerator=accelerator(runtime),
        devices=runtime.processes,
        strategy=ddp if runtime.strategy == "ddp" else "auto",
        precision=runtime.precision,
    )
    fabric.launch()
    return fabric


def accelerator(runtime: Runtime) -> str:
    """The device that `auto` stands for; raises InputError where a GPU is asked for and there is none."""
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise InputError("runtime.device=cuda: torch finds no GPU on this machine; runtime.device=cpu runs without one")
    if runtime.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return runtime.device


def prepare(run: RunDirectory, config: Config) -> None:
    """Write what the run is, unless it has begun already; raises InputError if the directory holds another one."""
    this = recipe(config)
    if run.exists():
        changed = difference(run.recipe(), this)
        if changed:
            raise InputError(f"run_dir={run.path}: holds another run ({'; '.join(changed)}); choose another directory")
        return
    run.path.mkdir(parents=True, exist_ok=True)
    identity = {"run_id": run_id(config), "recipe_hash": recipe_hash(config), "recipe": this}
    run.begin(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False), identity)


def optimizer_of(module: nn.Module, config: Optimizer) -> torch.optim.AdamW:
    """AdamW; weight decay for matrices only, not for biases, norms and single vectors."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))


def learning_rate(config: Optimizer, step: int, steps: int) -> float:
    """Of step `step` (from 0): linear warm-up, then a cosine down to `final_lr_ratio` of the peak."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    cosine = (1 + math.cos(math.pi * done)) / 2
    return config.lr * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)


class Trainer:
    """The training loop and its state.

    What a step computes depends on the weights, the optimizer and (seed, step) alone, so that these and a few counters
    are all that a checkpoint holds.
    """

    def __init__(self, config: Config, fabric: Fabric, run: RunDirectory, source: Source, objective: Objective) -> None:
        self.config, self.fabric, self.run, self.source, self.objective = config, fabric, run, source, objective
        self.steps = config.trainer.steps
        optimizer = optimizer_of(objective, config.optimizer)
        self.forward, self.optimizer = fabric.setup(objective, optimizer)
        self.step = 0
        self.counters = {"bad_steps": 0, "bad_in_a_row": 0, "skipped": 0}
        self._resume()
        self.attempt = run.status().get("attempt", 0) + 1
        self.mirror: Mirror = NoMirror()
        if fabric.is_global_zero:
            self.mirror = open_mirror(config.logger, run_id(config), run.path, dataclasses.asdict(config))

    def fit(self, stop: StopRequest) -> tuple[int, str]:
        """Train to the last step, or until asked to stop. Returns the exit code, and why if it is not 0."""
        config, fabric = self.config, self.fabric
        dataset = TrainingSteps(self.source, config, fabric.global_rank, fabric.world_size)
        self.set_status("running")
        memory = PeakMemory(fabric.device)
        with progress(self.run.path.name, self.step, self.steps) as report:
            waiting = time.perf_counter()
            stream = batches(dataset, self.step, config.runtime.workers, pin_memory=fabric.device.type == "cuda")
            for batch in stream:
                began = time.perf_counter()
                row = self._train_step(batch.map(fabric.to_device))
                seconds = time.perf_counter() - began
                self.step += 1
                row = {"step": self.step, **row}
                row |= {"step_seconds": seconds, "data_seconds": began - waiting, "peak_memory_bytes": memory.bytes()}
                last = self.step == self.steps
                if last or (config.evaluation.every and self.step % config.evaluation.every == 0):
                    row |= self._evaluate()
                self._record(row)
                report(self.step, row["loss"] if row["loss"] is not None else math.nan)
                stopping, failure = self._agreed(bool(stop)), self._failure()
                every = config.trainer.checkpoint_every
                if last or stopping or failure or (every and self.step % every == 0):
                    self._save()
                if failure:
                    return FAILED, failure
                if stopping and not last:
                    name = stop.signal.name if stop.signal else "a signal to another process"
                    return STOPPED, f"stopped by {name} after step {self.step}, saved"
                waiting = time.perf_counter()
        return DONE, ""

    def set_status(self, state: str, reason: str = "") -> None:
        """Write how the run stands."""
        if self.fabric.is_global_zero:
            self.run.set_status(state, self.step, self.steps, self.attempt, reason)

    def _train_step(self, batch: Batch) -> dict[str, Any]:
        """One optimizer step; a loss or gradient that is not finite changes nothing but the counters."""
        config = self.config
        sizes = sizes_at(config.curriculum, self.step, self.steps)
        lr = learning_rate(config.optimizer, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        terms = self.forward(batch, sizes)
        self.fabric.backward(terms["loss"])
        norm = float(
            self.fabric.clip_gradients(  # type: ignore[arg-type]  # a tensor whenever max_norm is given
                self.objective, self.optimizer, max_norm=config.optimizer.clip_norm, error_if_nonfinite=False
            )
        )
        values = self._means({name: term.detach() for name, term in terms.items()})
        finite = math.isfinite(values["loss"]) and math.isfinite(norm)
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.counters["bad_steps"] += not finite
        self.counters["bad_in_a_row"] = 0 if finite else self.counters["bad_in_a_row"] + 1
        self._count_skipped(batch)
        return {
            **{name: value if math.isfinite(value) else None for name, value in values.items()},
            "grad_norm": norm if finite else None,
            "lr": lr,
            "bad_steps": self.counters["bad_steps"],
            "skipped": self.counters["skipped"],
            "processing_patch_size": sizes.processing,
            "output_patch_size": sizes.output,
        }

    def _means(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """The terms averaged over all processes."""
        names, values = list(terms), torch.stack(list(terms.values()))
        return dict(zip(names, self.fabric.all_reduce(values, reduce_op="mean").tolist(), strict=True))  # type: ignore[union-attr]

    def _count_skipped(self, batch: Batch) -> None:
        for message in batch.skipped:
            log.warning("skipped %s", message)
        count = torch.tensor(len(batch.skipped), device=self.fabric.device)
        self.counters["skipped"] += int(self.fabric.all_reduce(count, reduce_op="sum"))  # type: ignore[arg-type]

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

    def _agreed(self, stop: bool) -> bool:
        """Whether any process was asked to stop."""
        if self.fabric.world_size == 1:
            return stop
        flag = torch.tensor(float(stop), device=self.fabric.device)
        return bool(self.fabric.all_reduce(flag, reduce_op="sum"))  # type: ignore[arg-type]

    def _record(self, row: dict[str, Any]) -> None:
        if self.fabric.is_global_zero:
            self.run.add_metrics(row)
            self.mirror.metrics(row)
            self.run.heartbeat(self.step, self.steps, self.attempt)

    def _evaluate(self) -> dict[str, float]:
        """Scores of the embeddings, for the metrics; evaluation.json and pictures on the way."""
        scores: dict[str, float] = {}
        if self.fabric.is_global_zero and self.config.evaluation.tiles:
            sizes = sizes_at(self.config.curriculum, max(self.step - 1, 0), self.steps)
            scores, pictures = evaluate(self.objective.model, self.source, self.config, sizes, self.run, self.step)
            self.mirror.pictures(self.step, pictures)
        self.fabric.barrier()
        return scores

    def _save(self) -> None:
        if self.fabric.is_global_zero:
            state = {
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "counters": self.counters,
                "modalities": {name: dataclasses.asdict(m) for name, m in self.source.modalities.items()},
            }
            checkpoint.save(self.run.checkpoints, self.step, state, self.config.trainer.keep_checkpoints)
        self.fabric.barrier()

    def _resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = checkpoint.newest(self.run.checkpoints, self.fabric.device)
        if found is not None:
            self.step, state = found
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.counters = state["counters"] | {"bad_in_a_row": 0}
            log.info("going on after step %d", self.step)
        if self.fabric.is_global_zero:
            self.run.keep_metrics(self.step)


def main() -> None:
    """The command."""
    from hybrid_patch.config.front import run_hydra

    run_hydra(train)


if __name__ == "__main__":
    main()

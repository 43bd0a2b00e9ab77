"""One attempt at a run: lock its directory, train, evaluate, and record how it ended."""

import dataclasses
import logging
import tempfile
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from lightning_fabric import Fabric

from hybrid_patch.config import recipe
from hybrid_patch.config.compose import as_yaml, frozen_config
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.recipe import Identity
from hybrid_patch.config.schema import Config, Data
from hybrid_patch.config.target_options import SelfTarget
from hybrid_patch.data.description import describe
from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.data.source import Source, open_source
from hybrid_patch.errors import DISK_LOST, DONE, FAILED, LOST, STOPPED, InputError
from hybrid_patch.model.pretrained import Pretrained, begin_with, read_pretrained
from hybrid_patch.runs.atomic_files import remove_parts, write_bytes
from hybrid_patch.runs.checkpoints import Checkpoint
from hybrid_patch.runs.continuation import copy_state
from hybrid_patch.runs.directory import IDENTITY, TEACHER, RunDirectory
from hybrid_patch.runs.failure import DISK_FULL, ERROR, cause_of, last_frame
from hybrid_patch.runs.failure import LOST as DISK_GONE
from hybrid_patch.runs.lock import LostLockError
from hybrid_patch.runs.progress import LogFile, start_logging
from hybrid_patch.runs.provenance import provenance
from hybrid_patch.runs.records import DamagedFileError
from hybrid_patch.runs.stop_signal import Stopped, StopRequest, stop_requests
from hybrid_patch.train import checkpointing
from hybrid_patch.train.distributed import end_at_once, open_fabric, together
from hybrid_patch.train.evaluations import missing_evaluation
from hybrid_patch.train.step import TrainingModule, label_classes
from hybrid_patch.train.teacher import taught_windows
from hybrid_patch.train.throughput import PeakFlops
from hybrid_patch.train.trainer import Trainer

log = logging.getLogger(__name__)


def train(
    config: Config,
    check: Callable[[Config], None] | None = None,
    peak: Callable[[Config], PeakFlops | None] | None = None,
) -> int:
    """Train and evaluate a run, from its newest checkpoint if there is one. Returns the exit code.

    The first process prints and writes the files; the others return 0. Raises InputError for bad input that shows only
    now: a broken sample, a directory that holds another run. `check` may raise it before anything is written; `peak`
    says what the share of the device's peak is reckoned by.
    """
    identity = recipe.identity(config)
    run = RunDirectory(recipe.run_directory(config, identity["run_id"]))
    refuse_another_run(run, identity)
    if check is not None and run.status_if_whole().state != "done":
        check(config)
    with stop_requests() as stop:
        fabric = open_fabric(config)
        first = fabric.is_global_zero
        try:
            mended = together(fabric, lambda: prepare(run, config, identity))
            start_logging(LogFile(run.log, run.held) if first else None, quiet=not first)
            for line in mended or ():
                log.warning("%s", line)
            with run.heartbeats() if first else nullcontext():
                code = attempt(config, fabric, run, stop, peak)
        except LostLockError as error:
            log.error("%s", error)
            end_at_once(LOST)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError) and not run.path.exists()
            if not gone and cause_of(error) != DISK_GONE:
                raise
            log.error("%s: %s", run.path, "the directory is gone" if gone else error)
            return DISK_LOST
        finally:
            with suppress(OSError):
                run.unlock()
        fabric.barrier()  # Fabric ends a process that others have left behind
        return code if first else DONE


def attempt(
    config: Config,
    fabric: Fabric,
    run: RunDirectory,
    stop: StopRequest,
    peak: Callable[[Config], PeakFlops | None] | None = None,
) -> int:
    """Train until done or stopped; the first process records the outcome in the status. Returns the exit code."""
    if run.status().state == "done":
        more = f"hybrid-patch train continue_from={run.path} trainer.steps={2 * config.trainer.steps}"
        log.info("%s is done already; for more steps: %s", run.path, more)
        return DONE
    if config.evaluation.tiles != 0 and not missing_evaluation():
        # A fault in its libraries must show before the training; others are spared a quarter of their start.
        import_module("hybrid_patch.evaluate.evaluation")
    try:
        checkpoint = checkpointing.newest(fabric, run)
        # What the teacher says is of the weights that the training began with, whatever a checkpoint holds.
        needed = config.init.from_ if checkpoint is None or config.target.name == "self" else None
        pretrained = None if needed is None else read_pretrained(needed)
        source = open_source(data_of(config.data, checkpoint))
        if checkpoint is None and pretrained is not None and pretrained.modalities:
            source = open_source(as_pretrained(config.data, source, pretrained))
        if fabric.is_global_zero and "data" not in run.identity():
            look_at_data(config, source, run)
        torch.manual_seed(config.seed)
        module = TrainingModule(config, source.modalities, label_classes(config, source))
        if pretrained is not None:
            begin_with(module.model, config.init, pretrained)
        taught = None
        if isinstance(config.target, SelfTarget):
            module.to(fabric.device)
            quiet, folder = not fabric.is_global_zero, run.path / TEACHER
            make = partial(taught_windows, config, source, module, run.recipe(), folder, stop.check)
            taught = together(fabric, lambda: make(quiet=quiet))
            if taught is None:
                taught = make(quiet=quiet)  # reads what the first process has written
        if checkpoint is None:
            module.fit(TrainingSteps(source, config, 0, 1, taught))
        counts = module.parameter_counts()
        log.info("parameters: %s", ", ".join(f"{name} {count:,}" for name, count in counts.items() if count))
        log.info("device: %s, processes: %d", fabric.device.type, fabric.world_size)
        flops = peak(config) if peak is not None and fabric.is_global_zero else None
        trainer = Trainer(config, fabric, run, source, module, checkpoint, taught, flops)
        code, reason = trainer.fit(stop)
        trainer.logger.close()
    except LostLockError:
        raise
    except Stopped:
        if fabric.is_global_zero:
            run.set_status("preempted", "stopped before its first step", step=checkpoint.step if checkpoint else 0)
        return STOPPED
    except BaseException as error:
        if fabric.is_global_zero:
            record_failure(run, error)
        raise
    if fabric.is_global_zero:
        failure = {"cause": ERROR, "frame": ""} if code == FAILED else {}
        state = {DONE: "done", STOPPED: "preempted", FAILED: "failed"}[code]
        run.set_status(state, reason, step=trainer.step, **failure)
    log.info("%s%s", run.path, f": {reason}" if reason else "")
    return code


def data_of(data: Data, checkpoint: Checkpoint | None) -> Data:
    """The options of the data, with the modalities and statistics of an earlier attempt, whatever the files say now."""
    if checkpoint is None:
        return data
    try:
        modalities = {name: Modality(**fields) for name, fields in checkpoint.state["modalities"].items()}
    except (TypeError, ValueError) as error:
        remedy = "move it away to go on from the one before"
        raise DamagedFileError(checkpoint.path, f"modalities: {error}", remedy) from None
    return dataclasses.replace(data, modalities=modalities)


def as_pretrained(data: Data, source: Source, pretrained: Pretrained) -> Data:
    """The options of the data with the statistics that normalised the modalities which the weights were trained on."""
    modalities = dict(source.modalities)
    for name, before in pretrained.modalities.items():
        if name in modalities and modalities[name].bands == before.bands:
            modalities[name] = dataclasses.replace(modalities[name], mean=before.mean, std=before.std)
    return dataclasses.replace(data, modalities=modalities)


def look_at_data(config: Config, source: Source, run: RunDirectory) -> None:
    """Log what the data are, and keep it in the run's identity, with a picture where the run is evaluated."""
    evaluated = config.evaluation.tiles != 0
    description = describe(source, labels=evaluated)
    for line in description.lines():
        (log.warning if line.startswith("warning: ") else log.info)("%s", line.removeprefix("warning: "))
    run.describe_data(dataclasses.asdict(description))
    if evaluated and not missing_evaluation():
        from hybrid_patch.evaluate.describe import draw_samples

        with tempfile.TemporaryDirectory() as folder:
            draw_samples(source, drawn := Path(folder) / "data.png")
            if drawn.exists():
                with run.held():
                    write_bytes(run.pictures / drawn.name, drawn.read_bytes())


def record_failure(run: RunDirectory, error: BaseException) -> None:
    """Write why the run failed into its status, if the disk has room. Raises OSError if the disk itself has failed."""
    try:
        cause, frame = cause_of(error), last_frame(error)
        run.set_status("failed", f"{type(error).__name__}: {error}", cause=cause, frame=frame)
    except OSError as disk_error:
        if cause_of(disk_error) != DISK_FULL:
            raise
        log.error("status.json could not be written: %s", disk_error)


def refuse_another_run(run: RunDirectory, identity: Identity) -> None:
    """Raises InputError if the directory holds a run of another recipe, or files that belong to no run."""
    if not run.exists():
        if files := run.foreign_files():
            reason = f"holds other files ({', '.join(files)}); choose a new or empty directory"
            raise InputError(f"run_dir={run.path}: {reason}")
        return
    try:
        before = run.recipe()
    except DamagedFileError as error:
        if error.path.name != IDENTITY:
            raise
        # The config beside it says what the run was, but for the data, which are what they are.
        fingerprint = identity["recipe"]["data"]["fingerprint"]
        before = recipe.recipe(frozen_config(run.path), lambda data: fingerprint)
    if changed := recipe.difference(before, identity["recipe"]):
        longer = all(line.startswith("trainer.steps:") for line in changed)
        steps = identity["recipe"]["trainer"]["steps"]
        hint = f", and continue_from={run.path} trainer.steps={steps} to go on from it" if longer else ""
        raise InputError(
            f"run_dir={run.path}: holds another run ({'; '.join(changed)}); choose another directory{hint}"
        )


def prepare(run: RunDirectory, config: Config, identity: Identity) -> list[str]:
    """Lock the directory, mend it, and begin the run unless it has begun: with the state of another, if it goes on
    from that. Returns what was mended, in lines. Raises InputError if another process is at work, or that state is
    gone."""
    run.lock()
    with run.held():
        remove_parts(run.path)
    mended = run.mend()
    if not (run.exists() and run.config.exists()):
        run.begin(as_yaml(config), {**identity, **provenance()})
    begun = config.continue_from
    if begun is not None and run.status().state != "done" and not any(run.checkpoints.glob("step_*")):
        copy_state(run, Path(begun.run), begun.step, begun.checkpoint)
    return mended

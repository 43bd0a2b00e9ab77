"""The processes of a run: started on their devices, and ended together."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import NoReturn, TypeVar

import psutil
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy

from hybrid_patch.config.schema import Config, Runtime
from hybrid_patch.errors import DONE, InputError
from hybrid_patch.train import fsdp

T = TypeVar("T")

FIRST = "HYBRID_PATCH_FIRST_PROCESS"
"""Environment variable: the id of the process that has started this one."""
WATCH_SECONDS = 1.0
"""Between checks of it."""


def open_fabric(config: Config) -> Fabric:
    """Lightning Fabric on the configured devices, launched."""
    runtime = config.runtime
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    fabric = Fabric(
        accelerator=accelerator(runtime),
        devices=runtime.processes,
        num_nodes=runtime.nodes,
        strategy=strategy(config),
        plugins=[cluster_environment(runtime)],
    )
    if fabric.local_rank == 0:
        os.environ[FIRST] = str(os.getpid())
    else:
        end_with_first()
    fabric.launch()
    os.environ.pop(FIRST, None)  # what this process starts later may be the first of others
    return fabric


def cluster_environment(runtime: Runtime) -> ClusterEnvironment:
    """Who starts the processes: torchrun (whose variables `launch` sets), srun, or the first process itself.

    A job's own variables (`SLURM_NTASKS`, ...) say nothing of that: they are around everything that is started in its
    allocation, by hand too. Those of a step are only where srun has started this process, or a parent of it.

    Raises InputError if others have started another number of processes than the config says.
    """
    environment, size = os.environ, runtime.world_size
    if TorchElasticEnvironment.detect():
        started = environment.get("WORLD_SIZE")
        if started != str(size):
            raise InputError(
                f"runtime.processes={runtime.processes}: torchrun has started {started} processes, the config says "
                f"{size}; give both the same"
            )
        return TorchElasticEnvironment()
    if size > 1 and "SLURM_STEP_ID" in environment and environment.get("SLURM_STEP_NUM_TASKS") == str(size):
        # Lightning wants to know this, and srun does not always tell.
        environment.setdefault("SLURM_NTASKS_PER_NODE", str(runtime.processes))
        environment["SLURM_NTASKS"] = str(size)
        return SLURMEnvironment(auto_requeue=False)
    if runtime.nodes > 1:
        raise InputError(
            f"runtime.nodes={runtime.nodes}: several machines need hybrid-patch launch, torchrun, or "
            f"srun --nodes={runtime.nodes} --ntasks-per-node={runtime.processes}"
        )
    return LightningEnvironment()


def strategy(config: Config) -> Strategy | str:
    match config.runtime.strategy:
        case "ddp":
            # Only a curriculum can leave parameters out of a step: an upsampler's later stages.
            return DDPStrategy(find_unused_parameters=len(config.curriculum.stages) > 1)
        case "fsdp":
            ranks = config.runtime.world_size
            return ModelParallelStrategy(fsdp.shard, data_parallel_size=ranks, tensor_parallel_size=1)
        case "single":
            return "auto"


def end_at_once(code: int) -> NoReturn:
    """End this process and all that it has started, before one of them writes anything more, as wandb's does."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_with_first() -> None:
    """End this process when the one that has started it ends.

    Fabric's first process kills the others when one of them ends, but when it is killed itself, they would wait for it
    in a collective, on a GPU until its timeout.
    """
    first = int(os.environ.get(FIRST, os.getppid()))  # a scheduler that starts all processes does not set it

    def watch() -> None:
        while os.getppid() == first:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch of the first process", daemon=True).start()


def accelerator(runtime: Runtime) -> str:
    """The device that `auto` chooses. Raises InputError if there are fewer GPUs than requested."""
    gpus = torch.cuda.device_count()
    if runtime.device == "cpu" or (runtime.device == "auto" and gpus < runtime.processes):
        return "cpu"
    if gpus < runtime.processes:
        few = f"torch finds {gpus} GPUs on this machine for runtime.processes={runtime.processes}"
        raise InputError(f"runtime.device=cuda: {few}; runtime.device=cpu runs without")
    return "cuda"


def together(fabric: Fabric, action: Callable[[], T]) -> T | None:
    """The result of an action in the first process, None in others; if it raises InputError, all processes end."""
    result, message = None, ""
    if fabric.is_global_zero:
        try:
            result = action()
        except InputError as error:
            message = str(error)
    end_together(fabric, message)
    return result


def any_process(fabric: Fabric, *mine: bool) -> list[bool]:
    """Which of the flags are true in any process. The processes wait for one another, but not for their devices."""
    if fabric.world_size == 1:
        return list(mine)
    assert torch.distributed.group.WORLD is not None
    flags = torch.tensor(mine, dtype=torch.int32)
    torch.distributed.all_reduce(flags, group=_host_group(torch.distributed.group.WORLD))
    return flags.bool().tolist()


@cache
def _host_group(world: torch.distributed.ProcessGroup) -> torch.distributed.ProcessGroup:
    """All processes, for collectives on the CPU; made when all ask for it first."""
    return torch.distributed.new_group(backend="gloo")


def end_together(fabric: Fabric, message: str) -> None:
    """If any process has a message, raise the first one as an InputError in the first process, and end the others."""
    messages: list[str] = [message] * fabric.world_size
    if fabric.world_size > 1:
        torch.distributed.all_gather_object(messages, message)
    if any(messages) and fabric.is_global_zero:
        raise InputError(next(filter(None, messages)))
    if any(messages):
        sys.exit(DONE)

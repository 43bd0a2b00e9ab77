"""The processes of a run: started on their devices, and ended together."""

import sys
import warnings
from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from hybrid_patch.config.schema import Config, Runtime
from hybrid_patch.errors import InputError

DONE = 0
"""The exit code of a run that is done, and of processes beside the first, which carries the code."""


def open_fabric(config: Config) -> Fabric:
    """Lightning Fabric on the configured devices, its processes started."""
    runtime = config.runtime
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    # Only a curriculum can leave parameters out of a step: an upsampler's later stages.
    ddp = DDPStrategy(find_unused_parameters=len(config.curriculum.stages) > 1)
    # Where SLURM is installed, a run that was not started by srun is meant so.
    warnings.filterwarnings("ignore", message="The `srun` command is available on your system")
    fabric = Fabric(
        accelerator=accelerator(runtime),
        devices=runtime.processes,
        num_nodes=runtime.nodes,
        strategy=ddp if runtime.strategy == "ddp" else "auto",
    )
    fabric.launch()
    return fabric


def accelerator(runtime: Runtime) -> str:
    """The device that `auto` stands for; raises InputError where there are not as many GPUs as asked for."""
    gpus = torch.cuda.device_count()
    if runtime.device == "cpu" or (runtime.device == "auto" and gpus < runtime.processes):
        return "cpu"
    if gpus < runtime.processes:
        raise InputError(
            f"runtime.device=cuda: torch finds {gpus} GPUs on this machine for runtime.processes={runtime.processes}; "
            "runtime.device=cpu runs without"
        )
    return "cuda"


def together(fabric: Fabric, action: Callable[[], None]) -> None:
    """Let the first process do something; where its input is bad, all processes end."""
    message = ""
    if fabric.is_global_zero:
        try:
            action()
        except InputError as error:
            message = str(error)
    end_together(fabric, fabric.broadcast(message))


def end_together(fabric: Fabric, message: str) -> None:
    """Where there is a message: raise it as an InputError in the first process, and end the others in silence."""
    if message and fabric.is_global_zero:
        raise InputError(message)
    if message:
        sys.exit(DONE)

"""Whether a run fits its machine's memory, before anything of it is allocated or written."""

import torch

from hybrid_patch.config.machine import machine_memory
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.formatting import format_bytes
from hybrid_patch.cost.least_memory import CLOSE, needs_of_loading, needs_of_step, refuse_above, rough_bytes
from hybrid_patch.errors import InputError
from hybrid_patch.train.distributed import accelerator

UNCERTAIN = 1.25
"""By how much a plan has to exceed the memory for a run to be refused."""


def check_memory(config: Config) -> None:
    """Raises InputError, with the plan's figures, if a run needs more memory than this machine, or a GPU of it, has."""
    memory, has, processes = float(machine_memory()), "this machine has", config.runtime.processes
    loading, step = list(needs_of_loading(config)), list(needs_of_step(config))
    if accelerator(config.runtime) == "cuda":
        refuse_above(memory, has, loading, processes)
        memory, has, processes = torch.cuda.get_device_properties(0).total_memory, "a GPU of this machine has", 1
        refuse_above(memory, has, step)
    else:
        refuse_above(memory, has, loading + step, processes)
    if processes * rough_bytes(config) > CLOSE * memory:
        _refuse_planned(config, memory, has, processes)


def _refuse_planned(config: Config, memory: float | int, has: str, processes: int) -> None:
    from hybrid_patch.cost.predict import predict  # late: other runs start half a second sooner

    prediction = predict(config, growth=True)
    peak, classes = processes * prediction.peak(), prediction.memory()
    if peak <= UNCERTAIN * memory:
        return
    batch = prediction.largest_batch(memory / processes)
    hint = f"trainer.batch_size up to {batch:,}" if batch else "a smaller model, data.tile or data.timesteps"
    parts = ", ".join(f"{name} {format_bytes(processes * size)}" for name, size in classes.items() if size)
    needs = f"needs {format_bytes(peak)} by the plan ({parts}); {has} {format_bytes(memory)}"
    raise InputError(f"trainer.batch_size={config.trainer.batch_size}: {needs}; try {hint}")

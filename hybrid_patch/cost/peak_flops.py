"""FLOPs of a run's steps and the peak of its device, for the share of it that a training reports."""

import torch

from hybrid_patch.config.curriculum import all_sizes
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.devices import device_of_gpu
from hybrid_patch.train.distributed import accelerator
from hybrid_patch.train.throughput import PeakFlops


def peak_flops(config: Config) -> PeakFlops | None:
    """The planned FLOPs of a process's steps and the peak of its GPU; None without a GPU whose peak is published.

    On a GPU it takes a second or two. Raises InputError for data that cannot be opened.
    """
    if accelerator(config.runtime) != "cuda":
        return None
    device = device_of_gpu(torch.cuda.get_device_name())
    if device is None:
        return None
    from hybrid_patch.cost.predict import predict  # late: other runs start half a second sooner

    costs = predict(config).costs
    flops = {
        sizes: float(sum(sum(parts.values()) for parts in cost.record.flops.values()))
        for sizes, cost in zip(all_sizes(config.curriculum), costs, strict=True)
    }
    return PeakFlops(flops, device.bf16 if config.runtime.precision == "bf16-mixed" else device.fp32)

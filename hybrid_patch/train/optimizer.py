"""The optimizer and its learning rate."""

import math

import torch
from torch import nn

from hybrid_patch.config.schema import Optimizer


def optimizer_of(module: nn.Module, config: Optimizer) -> torch.optim.AdamW:
    """AdamW; weight decay for the weights of linear maps only, not for biases, norms, encodings and the like."""
    decaying: list[nn.Parameter] = []
    level: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            words = name.split(".")
            decays = parameter.ndim >= 2 and "encodings" not in words and words[-1] != "bias"
            (decaying if decays else level).append(parameter)
    groups = [{"params": decaying, "weight_decay": config.weight_decay}, {"params": level, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(config: Optimizer, step: int, steps: int) -> float:
    """Of step `step` (from 0): linear warm-up, then a cosine down to `final_lr_ratio` of the peak."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    cosine = (1 + math.cos(math.pi * done)) / 2
    return config.lr * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)

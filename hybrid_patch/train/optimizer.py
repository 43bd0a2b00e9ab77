"""The optimizer and its learning rate schedule."""

import math

import torch
from torch import nn

from hybrid_patch.config.schema import Optimizer


def build_optimizer(module: nn.Module, config: Optimizer) -> torch.optim.AdamW:
    """AdamW with weight decay for the weights of linear maps only, not for biases, norms, encodings and the like."""
    decaying: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            words = name.split(".")
            decays = parameter.ndim >= 2 and "encodings" not in words and words[-1] != "bias"
            (decaying if decays else undecayed).append(parameter)
    groups = [{"params": decaying, "weight_decay": config.weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(config: Optimizer, step: int, steps: int) -> float:
    """The learning rate of a step (from 0): linear warm-up, then a cosine down to `final_lr_ratio` of the peak."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return config.lr * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)

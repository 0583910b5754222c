"""Parameter groups and the learning rate's course."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

NO_DECAY = ("relative_position_bias_table",)


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups for an optimizer: with its weight decay, and without.

    Without: vectors and scalars (norms, biases, logit scale and bias) and the relative-position tables. This
    is what LAION-CLAP does, by shape instead of by name (`training/main.py`: ndim < 2, "bn", "ln", "bias",
    "logit_scale"; the tables fall under "bias" there).
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or name.endswith(NO_DECAY)
            (kept if plain else decayed).append(parameter)
    return [{"params": decayed}, {"params": kept, "weight_decay": 0.0}]


def warmup_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Factor on the learning rate at a step: linear to 1 over the warm-up, then a half cosine to 0.

    Source: LAION-CLAP, `training/scheduler.py`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


class WarmupCosine:
    """`warmup_cosine` as a per-step schedule.

    Args:
        warmup_steps: optimizer steps; 0 leaves the warm-up out.
    """

    def __init__(self, warmup_steps: int) -> None:
        self.warmup_steps = warmup_steps

    def __call__(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        """Attaches the schedule to an optimizer."""
        factor: Callable[[int], float] = lambda step: warmup_cosine(step, self.warmup_steps, total_steps)  # noqa: E731
        return LambdaLR(optimizer, factor)

"""What several devices hold, as one; the only place that calls collectives for training and validation.

`torch.distributed.nn.functional` is deprecated, and what replaces it is private and not in every supported release.
"""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def place() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    several = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if several else (0, 1)


def gather(rows: Tensor) -> Tensor:
    """`(B / W, …)` of each of W ranks -> `(B, …)`, in the order of the ranks; unchanged with one rank.

    All ranks must hold equally many rows.
    The gradient of a row goes back to its rank, summed over all ranks. So where each rank's loss is the mean over its
    own pairs, the mean of the ranks' gradients, which DDP and FSDP take, is that of the one loss over the global batch.
    """
    return Gather.apply(rows) if place()[1] > 1 else rows


def mean_of_ranks(value: Tensor) -> Tensor:
    """A scalar of each rank -> their mean as the value, with the gradient of this rank's own."""
    if place()[1] == 1:
        return value
    return gather(value.detach().unsqueeze(0)).mean() + (value - value.detach())


def of_all_ranks(own: T) -> list[T]:
    """What each rank has, on every rank, in their order; any size, nothing is trained through it."""
    everyone: list[Any] = [own] * place()[1]
    if len(everyone) > 1:
        dist.all_gather_object(everyone, own)
    return everyone


class Gather(torch.autograd.Function):
    """An all-gather; backward a reduce-scatter."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # noqa: D102
        whole = rows.new_empty(dist.get_world_size() * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(whole, rows.contiguous())
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: D102
        whole = gradients[0].contiguous()
        own = whole.new_empty(len(whole) // dist.get_world_size(), *whole.shape[1:])
        dist.reduce_scatter_tensor(own, whole)
        return own

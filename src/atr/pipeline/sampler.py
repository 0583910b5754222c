"""Batches from an order: this rank's part of each, from where an interrupted epoch was left."""

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

from atr.errors import UsageError
from atr.pipeline.mixture import EpochOrder
from atr.types import Draw


class TrainingOrder(Sampler[Draw]):
    """This rank's part of each global batch of an epoch.

    Global batch b holds positions b·B … b·B + B - 1 of the epoch's order; rank r of W takes its r-th
    slice of B / W. The last, smaller batch is left out. Lightning calls `set_epoch`.

    Args:
        resume_at: an epoch and its number of finished batches, which are skipped; the length stays that of the
            whole epoch, as Lightning counts from the first batch.
        announce: told the shards of the next clips before they are needed, first ones first.
        ahead: clips that `announce` looks ahead.

    Raises:
        UsageError: fewer clips than one batch, or a world size that does not divide the batch.
    """

    def __init__(
        self,
        order: EpochOrder,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        resume_at: tuple[int, int] | None = None,
        announce: Callable[[list[int]], None] | None = None,
        ahead: int = 0,
    ) -> None:
        check_world(batch_size, world)
        if len(order) < batch_size:
            raise UsageError(
                f"data.batch_size={batch_size} but there are {len(order)} training clips; make it {len(order)} or less"
            )
        self.order, self.batch_size, self.rank, self.world = order, batch_size, rank, world
        self.resume_at, self.announce, self.ahead = resume_at, announce, ahead
        # Lightning lets the workers begin before it calls `set_epoch` for the first time.
        self.epoch = resume_at[0] if resume_at else 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.order) // self.batch_size * (self.batch_size // self.world)

    def __iter__(self) -> Iterator[Draw]:
        numbers = self.order.numbers(self.epoch)
        local = self.batch_size // self.world
        done = self.resume_at[1] if self.resume_at and self.resume_at[0] == self.epoch else 0
        announced: set[int] = set()
        for batch in range(done, len(numbers) // self.batch_size):
            if self.announce is not None:
                announced = self._announce(
                    numbers[batch * self.batch_size :][: self.batch_size + self.ahead], announced
                )
            first = batch * self.batch_size + self.rank * local
            for position in range(first, first + local):
                yield Draw(int(numbers[position]), self.epoch, position)

    def _announce(self, numbers: np.ndarray, before: set[int]) -> set[int]:
        """Announces the shards of these clips that were not among those `before`; returns all of them."""
        shards, where = np.unique(self.order.shard[numbers], return_index=True)
        coming = [int(shard) for shard in shards[np.argsort(where)]]
        assert self.announce is not None
        self.announce([shard for shard in coming if shard not in before])
        return set(coming)


def check_world(batch_size: int, world: int) -> None:
    """Refuses a number of devices that does not divide the global batch.

    Raises:
        UsageError: naming the nearest numbers that do.
    """
    if batch_size % world:
        near = sorted((n for n in range(1, batch_size + 1) if batch_size % n == 0), key=lambda n: abs(n - world))
        raise UsageError(
            f"data.batch_size={batch_size} is the global batch and cannot be divided among {world} devices; "
            f"numbers of devices that divide it: {', '.join(map(str, sorted(near[:3])))}"
        )


class EvaluationOrder(Sampler[Draw]):
    """Each clip once, in the order of the shards; rank r of W takes every W-th."""

    def __init__(self, clips: int, rank: int = 0, world: int = 1) -> None:
        self.numbers = range(rank, clips, world)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Draw]:
        return (Draw(number, 0, number) for number in self.numbers)

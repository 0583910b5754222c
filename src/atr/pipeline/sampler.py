"""Batches from an order: this rank's part of each, from where an interrupted epoch was left."""

from collections import deque
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
        arrivals = self._arrivals(numbers) if self.announce is not None else deque()
        for batch in range(done, len(numbers) // self.batch_size):
            self._announce(arrivals, batch * self.batch_size)
            first = batch * self.batch_size + self.rank * local
            for position in range(first, first + local):
                partner = numbers[(position + self.batch_size) % len(numbers)]
                yield Draw(int(numbers[position]), self.epoch, position, int(partner))

    def _arrivals(self, numbers: np.ndarray) -> deque[tuple[int, int]]:
        """Position and shard of each first use: the first one of the epoch, and those after a long pause."""
        shard = self.order.shard[numbers]
        by_shard = np.argsort(shard, kind="stable")  # positions, shard after shard
        new = np.ones(len(numbers), bool)
        pause = np.diff(by_shard) > self.batch_size + self.ahead
        new[1:] = (np.diff(shard[by_shard]) != 0) | pause
        positions = np.sort(by_shard[new])
        return deque((int(position), int(shard[position])) for position in positions)

    def _announce(self, arrivals: deque[tuple[int, int]], position: int) -> None:
        """Announces the shards whose use begins within reach of a position; at a resumed place, the passed ones not."""
        coming = []
        while arrivals and arrivals[0][0] < position + self.batch_size + self.ahead:
            begins, shard = arrivals.popleft()
            if begins >= position - self.ahead:
                coming.append(shard)
        if coming and self.announce is not None:
            self.announce(coming)


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
        return (Draw(number, 0, number, number) for number in self.numbers)

"""The order of the data: a pure function of (seed, epoch), whatever the number of workers and ranks."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from atr.errors import UsageError
from atr.types import Draw


class TrainingOrder(Sampler[Draw]):
    """This rank's part of each global batch of a shuffled epoch.

    Global batch b holds positions b·B … b·B + B - 1 of the epoch's permutation; rank r of W takes its r-th
    slice of B / W. The last, smaller batch is left out. Lightning calls `set_epoch`.

    Args:
        resume_at: an epoch and its number of finished batches, which are skipped; the length stays that of the
            whole epoch, as Lightning counts from the first batch.

    Raises:
        UsageError: fewer clips than one batch, or a world size that does not divide the batch.
    """

    def __init__(
        self,
        clips: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        resume_at: tuple[int, int] | None = None,
    ) -> None:
        if batch_size % world:
            near = sorted((n for n in range(1, batch_size + 1) if batch_size % n == 0), key=lambda n: abs(n - world))
            raise UsageError(
                f"data.batch_size={batch_size} is the global batch and cannot be divided among {world} devices; "
                f"numbers of devices that divide it: {', '.join(map(str, sorted(near[:3])))}"
            )
        if clips < batch_size:
            raise UsageError(
                f"data.batch_size={batch_size} but there are {clips} training clips; make it {clips} or less"
            )
        self.clips, self.batch_size, self.seed, self.rank, self.world = clips, batch_size, seed, rank, world
        self.resume_at = resume_at
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.clips // self.batch_size * (self.batch_size // self.world)

    def __iter__(self) -> Iterator[Draw]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips)
        local = self.batch_size // self.world
        done = self.resume_at[1] if self.resume_at and self.resume_at[0] == self.epoch else 0
        for batch in range(done, self.clips // self.batch_size):
            first = batch * self.batch_size + self.rank * local
            for position in range(first, first + local):
                yield Draw(int(order[position]), self.epoch, position)


class EvaluationOrder(Sampler[Draw]):
    """Each clip once, in the order of the shards; rank r of W takes every W-th."""

    def __init__(self, clips: int, rank: int = 0, world: int = 1) -> None:
        self.numbers = range(rank, clips, world)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Draw]:
        return (Draw(number, 0, number) for number in self.numbers)

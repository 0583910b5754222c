"""Which clips make an epoch, and in which order: a pure function of (seed, epoch)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from atr.errors import DataError, UsageError
from atr.shards.read import ShardSet


class Mixture:
    """How the corpora of `data.train` share an epoch, and how far the shuffle reaches.

    Args:
        weights: corpus -> share of an epoch, in any unit; None: by size and `temperature`.
        temperature: shares are size ** (1 / temperature): 1 by size, larger ones more even.
        exhausted: `repeat`: an epoch has as many clips as all corpora together, and a corpus that is used up
            starts again, in another order and with other crops. `end`: an epoch ends with the first corpus that
            is used up, and no clip comes twice.
        window: shards that are shuffled with each other at a time; None: all of a corpus. Remote shards need
            room for two windows in the cache.

    Raises:
        UsageError: a value out of range.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        temperature: float = 1.0,
        exhausted: Literal["repeat", "end"] = "repeat",
        window: int | None = None,
    ) -> None:
        if exhausted not in ("repeat", "end"):
            raise UsageError(f"data.mixture.exhausted is {exhausted!r}; allowed: repeat, end")
        if temperature <= 0:
            raise UsageError(f"data.mixture.temperature is {temperature}; it must be above 0 (1: by size)")
        if window is not None and window < 1:
            raise UsageError(f"data.mixture.window is {window}; allowed: 1 shard or more, or null for all")
        if weights is not None and (wrong := [name for name, weight in weights.items() if not weight > 0]):
            raise UsageError(f"data.mixture.weights.{wrong[0]} is {weights[wrong[0]]}; it must be above 0")
        self.weights, self.temperature, self.exhausted, self.window = weights, temperature, exhausted, window

    def counts(self, sizes: Mapping[str, int]) -> list[int]:
        """Clips of each corpus in an epoch, given how many each has.

        >>> Mixture(temperature=2.0).counts({"large": 900, "small": 100})
        [750, 250]
        >>> Mixture(weights={"large": 1, "small": 1}, exhausted="end").counts({"large": 900, "small": 100})
        [100, 100]

        Raises:
            UsageError: the weights name other corpora than there are, or a corpus gets no clip.
            DataError: a corpus has none.
        """
        names = list(sizes)
        if self.weights is not None and set(self.weights) != set(names):
            raise UsageError(
                f"data.mixture.weights names {', '.join(self.weights)}; data.train has {', '.join(map(repr, names))}"
            )
        if empty := [name for name in names if not sizes[name]]:
            raise DataError(
                f"data.train.{empty[0]} has no clip left: quarantine.jsonl, data.exclude_labels and leaks.action=drop "
                "take clips out; take the corpus out of data.train"
            )
        size = np.array([sizes[name] for name in names], dtype=np.float64)
        share = (size / size.max()) ** (1 / self.temperature)
        if self.weights is not None:
            share = np.array([self.weights[name] for name in names], dtype=np.float64)
        share = share / share.sum()
        total = size.sum() if self.exhausted == "repeat" else (size / share).min()
        exact = share * total
        counts = np.floor(exact + 1e-9).astype(np.int64)
        if self.exhausted == "repeat":  # what rounding left over goes to the largest remainders
            for place in np.argsort(counts - exact, kind="stable")[: round(total) - counts.sum()]:
                counts[place] += 1
        if not counts.all():
            raise UsageError(
                f"data.mixture gives {names[int(np.argmin(counts))]!r} no clip in an epoch; raise its share"
            )
        return counts.tolist()


class EpochOrder:
    """The clips of any epoch, in their global order.

    Where corpora repeat, one goes on in the next epoch where it stopped in this one, so each of its clips comes before
    any comes again; a corpus whose share is its size gives each clip once in every epoch.

    Args:
        shards: the training set, with its corpora.
        mixture: how they share an epoch.
        seed: of everything.
    """

    def __init__(self, shards: ShardSet, mixture: Mixture, seed: int) -> None:
        self.seed, self.window, self.ends = seed, mixture.window, mixture.exhausted == "end"
        self.shard = shards.shard_of()
        corpus = shards.corpus_of_shard[self.shard]
        self.members = [np.flatnonzero(corpus == number) for number in range(len(shards.corpora))]
        sizes = {name: len(members) for name, members in zip(shards.corpora, self.members, strict=True)}
        self.counts = mixture.counts(sizes)

    def __len__(self) -> int:
        return sum(self.counts)

    def numbers(self, epoch: int) -> np.ndarray:
        """Numbers of clips, int64 `(len(self),)`."""
        streams = [self._stream(corpus, epoch) for corpus in range(len(self.counts))]
        if len(streams) == 1:
            return streams[0]
        turn = np.repeat(np.arange(len(streams)), self.counts)
        turn = np.random.default_rng([self.seed, epoch, len(streams), 1]).permutation(turn)
        order = np.empty(len(turn), np.int64)
        for corpus, stream in enumerate(streams):
            order[turn == corpus] = stream
        return order

    def _stream(self, corpus: int, epoch: int) -> np.ndarray:
        """The clips that a corpus gives to an epoch: its next ones in an endless row of shuffled passes."""
        size, count = len(self.members[corpus]), self.counts[corpus]
        if self.ends:  # a new pass, so that no clip comes twice
            return self._pass(corpus, epoch)[:count]
        first = epoch * count
        passes = range(first // size, -(-(first + count) // size))
        row = np.concatenate([self._pass(corpus, number) for number in passes])
        return row[first - passes[0] * size :][:count]

    def _pass(self, corpus: int, number: int) -> np.ndarray:
        """Each clip of a corpus once: shards in random order, shuffled within windows of them."""
        members = self.members[corpus]
        rng = np.random.default_rng([self.seed, number, 0, corpus])
        shuffled = members[rng.permutation(len(members))]
        if self.window is None:
            return shuffled
        present = np.unique(self.shard[members])
        window = np.empty(len(present), np.int64)
        window[rng.permutation(len(present))] = np.arange(len(present)) // self.window
        of_clip = window[np.searchsorted(present, self.shard[shuffled])]
        return shuffled[np.argsort(of_clip, kind="stable")]

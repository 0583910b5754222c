"""How much a number would change on other clips of the same kind: 95 % intervals by bootstrap."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
SEED = 0
LEVELS = (2.5, 97.5)  # percentiles
CHUNK_BYTES = 1 << 24  # of weights held at a time

# Weights of the N items in C resamples `(C, N)` -> the statistic of each, `(C,)` or `(C, K)`, float64.
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measured:
    """A number with its interval.

    Attributes:
        metric: its name, e.g. `t2a/R@1`.
        low, high: 2.5 and 97.5 percentiles of the replicates.
        n: clips that were drawn from.
        replicates: float64 `(DRAWS,)`, the number on each resample.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int
    replicates: np.ndarray


def measured(metric: str, value: float, n: int, replicates: np.ndarray) -> Measured:
    """A number with the interval that its replicates `(DRAWS,)` give; those that are NaN are left out of it."""
    low, high = np.nanpercentile(replicates, LEVELS)
    return Measured(metric, float(value), float(low), float(high), n, replicates.astype(np.float64, copy=False))


def resamples(n: int) -> Iterator[np.ndarray]:
    """Resamples of n items, n draws with replacement each: how often each item was drawn, float64 `(C, n)` at a time.

    They depend on n only. So where the items of two models are the same, in the same order, resample k is the same for
    both, and the differences of their replicates are a paired bootstrap. Put items in the order of their ids first.
    """
    generator = np.random.default_rng([SEED, n])
    chunk = max(1, CHUNK_BYTES // (8 * n))
    for first in range(0, DRAWS, chunk):
        drawn = [np.bincount(generator.integers(0, n, n), minlength=n) for _ in range(min(chunk, DRAWS - first))]
        yield np.stack(drawn).astype(np.float64)


def replicate(n: int, *statistics: Statistic) -> list[np.ndarray]:
    """Statistics of weighted items on each resample: `(DRAWS,)` or `(DRAWS, K)` for each, as it gives them.

    Any function of the weights `(C, n)` can be one. Time grows as DRAWS x n; memory is that of `resamples`.
    """
    parts = [[statistic(weights) for statistic in statistics] for weights in resamples(n)]
    return [np.concatenate(one) for one in zip(*parts, strict=True)]


def ratio(sums: np.ndarray, counts: np.ndarray) -> Statistic:
    """Means over whatever the items hold: a clip's captions are drawn together.

    A resample in which nothing is counted gives NaN; there is none where each item counts.

    Args:
        sums: `(N,)` or `(N, K)`, of each item.
        counts: `(N,)`, or of the shape of `sums`: how much each item counts, 0 or more.
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        below = weights @ counts
        below = below if below.ndim == sums.ndim else below[:, None]
        with np.errstate(invalid="ignore"):
            return (weights @ sums) / below

    return statistic


def median(values: np.ndarray, item: np.ndarray) -> Statistic:
    """The median over values that belong to items; the mean of the two middle ones where they are evenly many.

    Args:
        values: `(Q,)`.
        item: `(Q,)` int64, the item of each; in each resample one at least must have a value.
    """
    order = np.argsort(values, kind="stable")
    ordered, owner = values[order], item[order]

    def statistic(weights: np.ndarray) -> np.ndarray:
        found = np.empty(len(weights))
        for draw, weight in enumerate(weights):  # one by one, as Q may be many times N
            up_to = np.cumsum(weight[owner])
            middle = [(up_to[-1] - 1) // 2, up_to[-1] // 2]
            found[draw] = ordered[np.searchsorted(up_to, middle, side="right")].mean()
        return found

    return statistic

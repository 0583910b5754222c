"""Measures of ranked lists in which ties are in random order: each is its expectation over that order."""

import numpy as np


class Ranking:
    """Where the relevant candidates of Q queries stand; each query has at least one.

    Candidates that are equally similar to a query are a group, whose members stand at its places in random order
    (McSherry and Najork, DOI 10.1007/978-3-540-78646-7_38). Without ties all groups are of one, and nothing is random.

    Args:
        query: `(P,)` int64, 0 to Q - 1, ascending: the query of each relevant candidate.
        above: `(P,)` int64, candidates that are more similar to the query.
        equal: `(P,)` int64, candidates that are equally similar, itself among them.
    """

    def __init__(self, query: np.ndarray, above: np.ndarray, equal: np.ndarray) -> None:
        self.query, self.above, self.equal = query, above, equal
        self.relevant = np.bincount(query)  # (Q,)
        order = np.lexsort((above, query))
        new = np.ones(len(query), bool)  # begins a group of its query, best group first
        new[1:] = (np.diff(query[order]) != 0) | (np.diff(above[order]) != 0)
        begins = np.flatnonzero(new)
        self.own = np.diff(begins, append=len(query))  # (G,) relevant candidates of a group
        self.group_query, self.start, self.size = (x[order][begins] for x in (query, above, equal))
        self.best = np.flatnonzero(np.diff(self.group_query, prepend=-1))  # (Q,) the first group of each query
        self.before = begins - np.searchsorted(query, self.group_query)  # (G,) relevant candidates in better groups
        in_group = np.arange(len(query)) - np.repeat(begins, self.own)
        self.earlier = np.empty(len(query), np.int64)  # (P,) of the same group, given earlier
        self.earlier[order] = in_group

    def first_place(self) -> np.ndarray:
        """Place of the best relevant candidate, `(Q,)`, 1 is first."""
        return self.start[self.best] + (self.size[self.best] + 1) / (self.own[self.best] + 1)

    def recall(self, k: int) -> np.ndarray:
        """Is one of the relevant candidates among the first k? `(Q,)`."""
        size, own = self.size[self.best], self.own[self.best]
        drawn = np.clip(k - self.start[self.best], 0, size)  # places of the group that are among the first k
        missed = np.ones(len(size))
        for step in range(int(drawn.max())):
            none_again = np.maximum(size - own - step, 0) / np.maximum(size - step, 1)
            missed *= np.where(step < drawn, none_again, 1.0)
        return 1.0 - missed

    def average_precision(self, k: int) -> np.ndarray:
        """`(Q,)`: (1 / relevant) * sum of i / place_i over the relevant candidates, best first, where place_i <= k."""
        total = np.zeros(len(self.start))
        spread = (self.own - 1) / np.maximum(self.size - 1, 1)
        for offset in range(min(k, int(self.size.max()))):
            place = self.start + offset + 1
            hits = self.own / self.size * (self.before + 1 + offset * spread)
            total += np.where((offset < self.size) & (place <= k), hits / place, 0.0)
        return np.bincount(self.group_query, total) / self.relevant

    def average_precision_laion(self, k: int) -> np.ndarray:
        """As `average_precision`, but the relevant candidates are counted in the order they are given in.

        So two relevant candidates at places 5 and 1 give (1/5 + 2/1) / 2, and best first they give (1/1 + 2/5) / 2. It
        is never less than that, and can exceed 1. LAION-CLAP's `evaluate_clotho_audiocaps` computes this (for 5
        captions a clip).
        """
        inside = np.clip(k - self.above, 0, self.equal)  # places of its group that are among the first k
        kept = np.flatnonzero(inside)
        query, above, inside, size = self.query[kept], self.above[kept], inside[kept], self.equal[kept]
        inverse = np.zeros(len(kept))  # expectation of 1 / place where that is among the first k, else 0
        for offset in range(int(inside.max(initial=0))):
            inverse += np.where(offset < inside, 1 / (size * (above + offset + 1)), 0.0)
        share = inside / size
        together = (inside - 1) / np.maximum(size - 1, 1)  # the same for another of the group, when one is inside
        number = 1 + self.earlier[kept] * (together - share)
        first = np.searchsorted(query, query)
        sums = np.zeros(len(self.relevant))  # of the shares of those given earlier
        position = np.arange(len(kept)) - first
        turns = np.argsort(position, kind="stable")  # the first one of each query, the second one of each, …
        for turn in np.split(turns, np.flatnonzero(np.diff(position[turns])) + 1):
            number[turn] += sums[query[turn]]
            sums[query[turn]] += share[turn]
        return np.bincount(query, number * inverse, minlength=len(self.relevant)) / self.relevant

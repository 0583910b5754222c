"""Where relevant candidates stand among all candidates, in blocks: no matrix of queries x candidates is ever held."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from atr.gather import of_all_ranks, place

BLOCK_BYTES = 1 << 26  # of similarities held at a time
BLOCK_QUERIES = 1024  # so that several ranks get something to do; larger products are no faster
MANY = 128  # relevant candidates of a query from which sorting all its candidates costs less than comparing with each


@dataclass(frozen=True)
class Distinct:
    """The distinct vectors among the rows of a matrix: those that stand once, then the others, each by their bytes.

    So the order of the rows changes nothing in what is computed from them.

    Attributes:
        vectors: `(U, D)` float32.
        number: `(N,)` int64, which of them each row is.
        counts: `(U,)` int64, rows that are it.
    """

    vectors: np.ndarray
    number: np.ndarray
    counts: np.ndarray


def distinct(rows: Tensor) -> Distinct:
    """Finds equal rows of a float matrix `(N, D)`, N and D at least 1."""
    values = np.ascontiguousarray(rows.detach().numpy(), np.float32)
    if (values.view(np.uint32) == 1 << 31).any():  # -0, which equals 0, but not in its bytes
        values = values + np.float32(0)
    order = values.view(np.dtype((np.void, 4 * values.shape[1]))).ravel().argsort(kind="stable")
    new = np.ones(len(values), bool)
    for begin in range(1, len(values), BLOCK_QUERIES):
        rows_here = values[order[begin - 1 : begin + BLOCK_QUERIES]]
        new[begin : begin + BLOCK_QUERIES] = (rows_here[1:] != rows_here[:-1]).any(axis=1)
    first = np.flatnonzero(new)
    counts = np.diff(first, append=len(values))
    once_first = np.argsort(counts > 1, kind="stable")
    number_of_group = np.empty(len(first), np.int64)
    number_of_group[once_first] = np.arange(len(first))
    number = np.empty(len(values), np.int64)
    number[order] = number_of_group[np.cumsum(new) - 1]
    return Distinct(values[order[first[once_first]]], number, counts[once_first])


def find_places(
    queries: Distinct, candidates: Distinct, query: np.ndarray, candidate: np.ndarray, over_ranks: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """For each of P pairs: how many candidates are more similar to its query than its candidate, and how many equally.

    Similarities are float32 products. Equal vectors are equally similar, exactly. Of vectors that differ, those whose
    cosines differ by less than the rounding (7e-7 in 512 dimensions, measured) may stand in either order, or tie.

    Args:
        query: `(P,)` int64, rows of the queries; candidate: `(P,)` int64, rows of the candidates.
        over_ranks: all ranks call this with the same arguments, and each does its share of the blocks.

    Returns:
        Two int64 `(P,)`, counted in rows: above, and equal, which counts the pair's own candidate, too.
    """
    width = len(candidates.vectors)
    keys, pair = np.unique(queries.number[query] * width + candidates.number[candidate], return_inverse=True)
    number, column = np.divmod(keys, width)
    used, row = np.unique(number, return_inverse=True)
    size = min(BLOCK_QUERIES, max(1, BLOCK_BYTES // (4 * width)))
    held = np.empty((min(size, len(used)), width), np.float32)
    bounds = np.searchsorted(row, np.arange(0, len(used) + size, size))
    counted = np.zeros((2, len(keys)), np.int64)
    rank, world = place() if over_ranks else (0, 1)
    for block in range(rank, len(bounds) - 1, world):
        first, own = block * size, slice(bounds[block], bounds[block + 1])
        vectors = queries.vectors[used[first : first + size]]
        similarity = np.matmul(vectors, candidates.vectors.T, out=held[: len(vectors)])
        _count(similarity, row[own] - first, column[own], candidates.counts, counted[:, own])
    if world > 1:
        counted = np.sum(of_all_ranks(counted), axis=0)
    return counted[0][pair], counted[1][pair]


def _count(
    similarity: np.ndarray, row: np.ndarray, column: np.ndarray, counts: np.ndarray, counted: np.ndarray
) -> None:
    """Fills `counted (2, P)` for the pairs of a block, which come row after row."""
    more = counts[(once := np.count_nonzero(counts == 1)) :] - 1
    for first, end in pairwise([*np.flatnonzero(np.diff(row, prepend=-1)), len(row)]):
        scores = similarity[row[first]]
        own = scores[column[first:end]]
        if end - first >= MANY:
            counted[:, first:end] = _by_sorting(scores, own, counts)
            continue
        for pair, score in enumerate(own, first):
            higher, not_lower = scores > score, scores >= score
            above, reached = np.count_nonzero(higher), np.count_nonzero(not_lower)
            if len(more):
                above, reached = above + more[higher[once:]].sum(), reached + more[not_lower[once:]].sum()
            counted[:, pair] = above, reached - above


def _by_sorting(scores: np.ndarray, own: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = scores.argsort()
    up_to = np.concatenate([[0], np.cumsum(counts[order])])
    left, right = (np.searchsorted(scores, own, side, sorter=order) for side in ("left", "right"))
    return up_to[-1] - up_to[right], up_to[right] - up_to[left]

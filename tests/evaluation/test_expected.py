"""Measures of ranked lists against the mean over every order in which ties can stand."""

import itertools

import numpy as np
import pytest

from atr.evaluation.expected import Ranking

CUTOFFS = (1, 2, 5, 10)


def places_of(scores, relevant):
    """Above and equal of the relevant candidates, in the order they are given in."""
    own = scores[relevant]
    return np.array([(scores > x).sum() for x in own]), np.array([(scores == x).sum() for x in own])


def slow(scores, relevant):
    """Every measure, as the mean over the orders that fit the scores; `relevant` lists candidates as they are given."""
    rows = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            given = [order.index(one) + 1 for one in relevant]
            rows.append([min(given)])
            for k in CUTOFFS:
                hit = float(min(given) <= k)
                best_first = sum(i / place for i, place in enumerate(sorted(given), 1) if place <= k)
                as_given = sum(i / place for i, place in enumerate([one for one in given if one <= k], 1))
                rows[-1] += [hit, best_first / len(given), as_given / len(given)]
    return np.mean(rows, axis=0)


def fast(ranking):
    values = [ranking.first_place()]
    for k in CUTOFFS:
        values += [ranking.recall(k), ranking.average_precision(k), ranking.average_precision_laion(k)]
    return np.stack(values, axis=1)


def queries(seed, count=6, levels=3):
    """Scores of 7 candidates, with many ties, and 1 to 4 relevant ones of each query in any order."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(0, levels, 7), rng.choice(7, size=rng.integers(1, 5), replace=False)


@pytest.mark.parametrize("seed", range(6))
def test_ties_give_the_expectation_over_their_orders(seed):
    asked = list(queries(seed))
    above, equal = (np.concatenate(x) for x in zip(*(places_of(*one) for one in asked), strict=True))
    query = np.repeat(np.arange(len(asked)), [len(relevant) for _, relevant in asked])
    expected = np.stack([slow(*one) for one in asked])
    np.testing.assert_allclose(fast(Ranking(query, above, equal)), expected, atol=1e-12)
    hopeful = fast(Ranking(query, above, np.ones_like(equal)))  # the control: the first place of the ties
    assert np.abs(hopeful - expected).max() > 0.1


def test_own_captions_at_the_fifth_and_the_first_place():
    """LAION's code does not sort: 2.2 / 5 instead of 1.4 / 5; the other three captions stand beyond the tenth place."""
    above = np.array([4, 0, 20, 30, 10])
    ranking = Ranking(np.zeros(5, np.int64), above, np.ones(5, np.int64))
    assert ranking.average_precision(10)[0] == pytest.approx(1.4 / 5, abs=1e-15)
    assert ranking.average_precision_laion(10)[0] == pytest.approx(2.2 / 5, abs=1e-15)
    assert ranking.average_precision(16)[0] == pytest.approx((1.4 + 3 / 11) / 5, abs=1e-15)
    assert ranking.first_place()[0] == 1
    sorted_first = Ranking(np.zeros(5, np.int64), np.sort(above), np.ones(5, np.int64))
    assert sorted_first.average_precision_laion(10)[0] == pytest.approx(1.4 / 5, abs=1e-15)


def test_the_numbers_of_relevant_candidates_may_differ_much():
    """One query with one relevant candidate, one with a thousand, all tied with a thousand others."""
    query = np.repeat([0, 1], [1, 1000])
    ranking = Ranking(query, np.zeros(1001, np.int64), np.full(1001, 2000))
    first, recall, precision, laion = (
        ranking.first_place(), ranking.recall(1), ranking.average_precision(10), ranking.average_precision_laion(10),
    )  # fmt: skip
    assert first.tolist() == [1000.5, pytest.approx(2001 / 1001)] and recall.tolist() == pytest.approx([1 / 2000, 0.5])
    harmonic = sum(1 / place for place in range(1, 11))
    assert precision[0] == laion[0] == pytest.approx(harmonic / 2000)
    by_hand = sum(0.5 * (1 + offset * 999 / 1999) / (offset + 1) for offset in range(10)) / 1000
    assert precision[1] == pytest.approx(by_hand) and laion[1] > precision[1]

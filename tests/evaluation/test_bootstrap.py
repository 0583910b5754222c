"""Intervals against slow resampling, against theory, and paired."""

import numpy as np
import pytest

from atr.evaluation import bootstrap
from atr.evaluation.bootstrap import DRAWS, measured, median, ratio, replicate, resamples


def all_weights(n):
    return np.concatenate(list(resamples(n)))


def test_resamples_depend_on_the_number_of_items_only(monkeypatch):
    weights = all_weights(37)
    assert weights.shape == (DRAWS, 37) and weights.dtype == np.float64
    assert (weights.sum(axis=1) == 37).all() and (weights >= 0).all()
    monkeypatch.setattr(bootstrap, "CHUNK_BYTES", 37 * 8 * 3)
    assert max(len(chunk) for chunk in resamples(37)) == 3 and (all_weights(37) == weights).all()
    assert len(np.unique(weights, axis=0)) == DRAWS
    assert weights.mean() == 1 and weights.var() == pytest.approx(1 - 1 / 37, rel=0.03)


def test_statistics_are_those_of_the_drawn_items():
    """The slow way: repeat the values of each item as often as it was drawn."""
    rng = np.random.default_rng(0)
    item = np.sort(rng.integers(0, 12, 60))
    item[:12] = np.arange(12)
    values = rng.integers(1, 9, 60).astype(np.float64)
    sums = np.stack([np.bincount(item, values), np.bincount(item, values**2)], axis=1)
    counts = np.bincount(item)
    means, middle, own = replicate(
        12, ratio(sums, counts), median(values, item), lambda weights: (weights * counts).max(axis=1)
    )
    for draw, weights in enumerate(all_weights(12)):
        drawn = np.repeat(values, weights[item].astype(int))
        np.testing.assert_allclose(means[draw], [drawn.mean(), (drawn**2).mean()], rtol=1e-12)
        assert middle[draw] == np.median(drawn) and own[draw] == (weights * counts).max()


def test_the_interval_of_a_share_is_that_of_theory():
    hits = (np.arange(2000) < 600).astype(np.float64)
    (replicates,) = replicate(2000, ratio(hits, np.ones(2000)))
    found = measured("share", hits.mean(), 2000, replicates)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 2000)
    assert found.low == pytest.approx(0.3 - half, abs=0.1 * half)
    assert found.high == pytest.approx(0.3 + half, abs=0.1 * half)
    assert (found.metric, found.value, found.n, found.replicates.shape) == ("share", 0.3, 2000, (DRAWS,))


def test_captions_of_a_clip_are_drawn_together():
    """Five equal captions tell as much as one; drawn one by one they would seem to tell more."""
    hits = (np.arange(300) % 3 == 0).astype(np.float64)

    def width(sums, counts):
        (replicates,) = replicate(len(sums), ratio(sums, counts))
        found = measured("", 1 / 3, len(sums), replicates)
        return found.high - found.low

    assert width(5 * hits, np.full(300, 5.0)) == pytest.approx(width(hits, np.ones(300)))
    assert width(np.repeat(hits, 5), np.ones(1500)) < 0.6 * width(hits, np.ones(300))


def test_differences_of_two_models_on_the_same_clips_are_paired():
    rng = np.random.default_rng(1)
    clip = rng.random(400)
    one, other = clip, clip + rng.normal(0.02, 0.05, 400)
    first, second = (replicate(400, ratio(x, np.ones(400)))[0] for x in (one, other))
    apart = np.percentile(rng.permutation(second) - first, [2.5, 97.5])
    paired = np.percentile(second - first, [2.5, 97.5])
    assert paired[0] > 0 > apart[0] and np.ptp(paired) < 0.3 * np.ptp(apart)
    assert (replicate(400, ratio(one, np.ones(400)))[0] == first).all()


def test_a_resample_that_counts_nothing_is_left_out_of_the_interval():
    counts = np.array([1.0, 0.0])
    (replicates,) = replicate(2, ratio(np.array([0.5, 0.0]), counts))
    assert 0.2 < np.isnan(replicates).mean() < 0.3
    found = measured("", 0.5, 2, replicates)
    assert (found.low, found.high) == (0.5, 0.5)


def test_memory_stays_bounded_with_many_clips(monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 60)
    chunks = [chunk.nbytes for chunk in resamples(100_000)]
    assert max(chunks) <= bootstrap.CHUNK_BYTES and len(chunks) == 3 and sum(chunks) == 60 * 800_000

"""Mixtures of corpora and the windowed shuffle: counted against slow, obvious versions."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from atr.errors import UsageError
from atr.pipeline.mixture import EpochOrder, Mixture


def order_of(sizes, mixture=None, shard=5, seed=0):
    """An `EpochOrder` over corpora of these sizes, `shard` clips to a shard."""
    shard_of, corpus_of_shard = [], []
    for corpus, size in enumerate(sizes):
        for first in range(0, size, shard):
            shard_of += [len(corpus_of_shard)] * min(shard, size - first)
            corpus_of_shard.append(corpus)
    names = [f"c{number}" for number in range(len(sizes))] if len(sizes) > 1 else [""]
    shards = SimpleNamespace(
        shard_of=lambda: np.array(shard_of), corpus_of_shard=np.array(corpus_of_shard), corpora=names
    )
    return EpochOrder(shards, mixture or Mixture(), seed)


def test_one_corpus_comes_whole_in_every_epoch():
    order = order_of([23])
    for epoch in range(3):
        assert sorted(order.numbers(epoch)) == list(range(23))
    assert order.numbers(0).tolist() != order.numbers(1).tolist()
    assert order.numbers(1).tolist() == order_of([23]).numbers(1).tolist()


@pytest.mark.parametrize(
    ("sizes", "mixture", "expected"),
    [
        ({"a": 900, "b": 100}, Mixture(), [900, 100]),
        ({"a": 900, "b": 100}, Mixture(temperature=2.0), [750, 250]),
        ({"a": 900, "b": 100}, Mixture(temperature=1e9), [500, 500]),
        ({"a": 900, "b": 100}, Mixture(weights={"a": 1, "b": 3}), [250, 750]),
        ({"a": 900, "b": 100}, Mixture(weights={"a": 1, "b": 1}, exhausted="end"), [100, 100]),
        ({"a": 900, "b": 100}, Mixture(weights={"a": 3, "b": 1}, exhausted="end"), [300, 100]),
        ({"a": 900, "b": 100}, Mixture(exhausted="end"), [900, 100]),
        ({"a": 3, "b": 3, "c": 4}, Mixture(weights={"a": 1, "b": 1, "c": 1}), [4, 3, 3]),
    ],
)
def test_shares_of_an_epoch(sizes, mixture, expected):
    assert mixture.counts(sizes) == expected


def test_a_small_corpus_repeats_evenly_and_a_large_one_goes_on_in_the_next_epoch():
    order = order_of([90, 10], Mixture(weights={"c0": 1, "c1": 1}))
    assert order.counts == [50, 50]
    epochs = [order.numbers(epoch) for epoch in range(9)]
    for numbers in epochs:
        assert set(Counter(n for n in numbers.tolist() if n >= 90).values()) == {5}
    large = [n for numbers in epochs for n in numbers.tolist() if n < 90]
    for first in range(0, 450, 90):  # each pass through it holds every clip once
        assert sorted(large[first : first + 90]) == list(range(90))


def test_corpora_are_spread_over_the_whole_epoch():
    numbers = order_of([900, 100]).numbers(0)
    per_tenth = (numbers.reshape(10, 100) >= 900).sum(axis=1)
    assert per_tenth.min() >= 2 and per_tenth.max() <= 25


def test_a_window_holds_few_shards_at_a_time_and_nothing_is_lost():
    order = order_of([100], Mixture(window=3))
    for epoch in range(3):
        numbers = order.numbers(epoch)
        assert sorted(numbers) == list(range(100))
        for window in range(7):
            part = numbers[window * 15 : (window + 1) * 15] // 5
            assert len(set(part.tolist())) <= 3
            assert (np.diff(part) != 0).sum() > len(set(part.tolist())) - 1 or len(part) <= 5  # shuffled within
    first = {tuple(sorted(set((order.numbers(epoch)[:15] // 5).tolist()))) for epoch in range(10)}
    assert len(first) > 5  # other shards meet in other epochs


def test_windows_hold_within_each_corpus_of_a_mixture():
    order = order_of([60, 40], Mixture(window=2))
    numbers = order.numbers(1)
    for low, high in ((0, 60), (60, 100)):
        own = numbers[(numbers >= low) & (numbers < high)]
        for first in range(0, len(own), 10):
            assert len(set((own[first : first + 10] // 5).tolist())) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exhausted": "stop"}, "exhausted is 'stop'; allowed: repeat, end"),
        ({"temperature": 0}, "temperature is 0; it must be above 0"),
        ({"window": 0}, "window is 0; allowed: 1 shard or more"),
        ({"weights": {"a": -1}}, r"weights\.a is -1; it must be above 0"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        Mixture(**arguments)


def test_weights_for_other_corpora_and_a_share_of_nothing_are_refused():
    with pytest.raises(UsageError, match=r"names a; data.train has 'a', 'b'"):
        Mixture(weights={"a": 1}).counts({"a": 5, "b": 5})
    with pytest.raises(UsageError, match="gives 'b' no clip in an epoch; raise its share"):
        Mixture(weights={"a": 1, "b": 1e-6}).counts({"a": 50, "b": 50})

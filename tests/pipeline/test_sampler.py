"""The order: a pure function of (seed, epoch), cut among ranks without changing a global batch."""

from types import SimpleNamespace

import numpy as np
import pytest

from atr.errors import UsageError
from atr.pipeline.mixture import EpochOrder, Mixture
from atr.pipeline.sampler import EvaluationOrder, TrainingOrder


def order_of(clips, seed=0):
    shards = SimpleNamespace(
        shard_of=lambda: np.zeros(clips, np.int64), corpus_of_shard=np.zeros(1, np.int64), corpora=[""]
    )
    return EpochOrder(shards, Mixture(), seed)


def epoch(number, clips=50, batch=8, seed=0, rank=0, world=1):
    order = TrainingOrder(order_of(clips, seed), batch, rank, world)
    order.set_epoch(number)
    return list(order)


def test_an_epoch_holds_each_clip_at_most_once_in_whole_batches():
    draws = epoch(0)
    assert len(draws) == 48 == len(TrainingOrder(order_of(50), 8))
    assert len({draw.number for draw in draws}) == 48
    assert [draw.position for draw in draws] == list(range(48))


def test_seed_and_epoch_make_the_order():
    assert epoch(0) == epoch(0)
    assert [d.number for d in epoch(0)] != [d.number for d in epoch(1)]
    assert [d.number for d in epoch(0)] != [d.number for d in epoch(0, seed=1)]


@pytest.mark.parametrize("world", [2, 4, 8])
def test_ranks_share_the_same_global_batches(world):
    alone = epoch(3)
    ranks = [epoch(3, rank=rank, world=world) for rank in range(world)]
    local = 8 // world
    for batch in range(6):
        together = [draw for rank in ranks for draw in rank[batch * local : (batch + 1) * local]]
        assert together == alone[batch * 8 : (batch + 1) * 8]


def test_a_resumed_order_begins_at_its_place_before_the_epoch_is_set():
    resumed = TrainingOrder(order_of(50), 8, resume_at=(3, 2))
    assert list(resumed) == epoch(3)[16:] and len(resumed) == 48
    resumed.set_epoch(4)
    assert list(resumed) == epoch(4)


def test_a_world_size_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(UsageError, match=r"batch_size=8 .* 3 devices; numbers of devices that divide it: 1, 2, 4"):
        TrainingOrder(order_of(50), 8, rank=0, world=3)


def test_too_few_clips_are_refused():
    with pytest.raises(UsageError, match=r"batch_size=8 but there are 5 training clips; make it 5 or less"):
        TrainingOrder(order_of(5), 8)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_meets_each_clip_once(world):
    drawn = [draw.number for rank in range(world) for draw in EvaluationOrder(10, rank, world)]
    assert sorted(drawn) == list(range(10))


def test_the_partner_stands_at_the_same_place_of_the_next_batch():
    draws = epoch(2)
    for draw in draws[:-8]:
        assert draw.partner == draws[draw.position + 8].number
    assert all(draw.partner != draw.number for draw in draws)


@pytest.mark.parametrize("window", [None, 2])
def test_each_shard_is_announced_in_time_once_a_pass(window):
    clips = 96
    shards = SimpleNamespace(
        shard_of=lambda: np.arange(clips) // 8, corpus_of_shard=np.zeros(12, np.int64), corpora=[""]
    )
    order = EpochOrder(shards, Mixture(window=window), seed=0)
    told: list[int] = []
    sampler = TrainingOrder(order, 4, announce=told.extend, ahead=16)
    for draw in sampler:
        assert draw.number // 8 in told  # before it is read
    assert set(told) == set(range(12))
    if window:
        assert sorted(told) == list(range(12))  # and once
        resumed: list[int] = []
        next(iter(TrainingOrder(order, 4, resume_at=(0, 12), announce=resumed.extend, ahead=16)))
        assert 2 <= len(resumed) <= 6  # not those of the batches that are done

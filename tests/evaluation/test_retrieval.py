"""Retrieval on hand-made similarities, against a slow reference and against torchmetrics."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.retrieval import RetrievalMAP, RetrievalRecall

from atr.evaluation.retrieval import rank_query, retrieval


def slow_rank_query(scores, relevant):
    """The mean over every order in which the ties can stand."""
    rows = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            hits = [bool(relevant[i]) for i in order]
            places = [place for place, hit in enumerate(hits, 1) if hit]
            recalls = [float(places[0] <= k) for k in (1, 5, 10)]
            precision = sum(i / place for i, place in enumerate(places, 1) if place <= 10) / len(places)
            rows.append([places[0], *recalls, precision])
    return np.mean(rows, axis=0)


@pytest.mark.parametrize("seed", range(12))
def test_ties_give_the_expectation_over_their_orders(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, size=7).astype(np.float32)
    relevant = np.zeros(7, bool)
    relevant[rng.choice(7, size=rng.integers(1, 5), replace=False)] = True
    first, recalls, precision = rank_query(scores, relevant)
    np.testing.assert_allclose([first, *recalls, precision], slow_rank_query(scores, relevant), atol=1e-9)


def test_the_example_of_the_docstring():
    audio = torch.eye(2)
    text = F.normalize(torch.tensor([[1.0, 0.0], [0.2, 0.8], [0.1, 0.9]]), dim=1)
    result = retrieval(audio, text, torch.tensor([0, 0, 1]))
    assert result["t2a/R@1"] == pytest.approx(2 / 3)
    assert result["a2t/R@1"] == 1.0
    text = F.normalize(torch.tensor([[1.0, 0.0], [0.05, 0.95], [0.1, 0.9]]), dim=1)
    result = retrieval(audio, text, torch.tensor([0, 0, 1]))  # clip 0: captions 0, 2, 1; clip 1: captions 1, 2, 0
    assert result["a2t/mAP@10"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)


def test_ranks_are_sorted_before_the_average_precision():
    """Own captions at ranks 4 and 0 of two: (1/1 + 2/5) / 2 = 0.7, LAION's unsorted code says 1.1."""
    scores = np.array([0.1, 0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    relevant = np.array([0, 1, 0, 0, 0, 1], bool)
    assert rank_query(scores, relevant)[2] == pytest.approx((1 + 2 / 5) / 2)


def test_a_constant_model_is_at_chance():
    clip_of_text = torch.arange(20).repeat_interleave(5)
    result = retrieval(torch.ones(20, 4) / 2, torch.ones(100, 4) / 2, clip_of_text)
    assert result["t2a/R@1"] == pytest.approx(1 / 20) and result["t2a/R@10"] == pytest.approx(10 / 20)
    assert result["a2t/R@1"] == pytest.approx(5 / 100)
    assert result["t2a/median_rank"] == 10  # expected place 10.5


def test_permuting_clips_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    audio, text = (F.normalize(torch.randn(n, 16, generator=generator), dim=1) for n in (30, 100))
    owner = torch.randint(30, (100,), generator=generator)  # ragged; some clips may have none
    order = torch.randperm(30, generator=generator)
    moved = retrieval(audio[order], text, order.argsort()[owner])
    assert moved == pytest.approx(retrieval(audio, text, owner))


def test_torchmetrics_agrees():
    generator = torch.Generator().manual_seed(1)
    audio, text = (F.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (40, 40))
    similarity, own = (text @ audio.T), torch.eye(40, dtype=torch.bool)
    rows = torch.arange(40).unsqueeze(1).expand(40, 40)
    result = retrieval(audio, text, torch.arange(40))
    for k in (1, 5, 10):
        expected = RetrievalRecall(top_k=k)(similarity.flatten(), own.flatten(), indexes=rows.flatten())
        assert result[f"t2a/R@{k}"] == pytest.approx(expected.item(), abs=1e-6)
    expected = RetrievalMAP(top_k=10)(similarity.flatten(), own.flatten(), indexes=rows.flatten())
    assert result["t2a/mAP@10"] == pytest.approx(expected.item(), abs=1e-6)


def test_a_perfect_model_is_perfect_and_a_reversed_one_is_not():
    audio = torch.eye(12)
    text, owner = audio.repeat_interleave(3, dim=0), torch.arange(12).repeat_interleave(3)
    result = retrieval(audio, text, owner)
    assert all(
        result[f"{d}/{m}"] == pytest.approx(1.0) for d in ("t2a", "a2t") for m in ("R@1", "mAP@10", "median_rank")
    )
    assert retrieval(audio, text, owner.flip(0))["t2a/R@1"] == 0.0
    assert (result["t2a/queries"], result["t2a/candidates"], result["a2t/candidates"]) == (36, 12, 36)

"""Zero-shot classification by hand, against brute force over the orders of ties, and against scikit-learn."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from atr.evaluation.zero_shot import (
    average_precisions,
    confusion,
    cosines,
    label_ranking,
    per_class,
    precision_draws,
    zero_shot,
)


def test_accuracy_top5_confusion_and_recall():
    labels = ["a", "b", "c"]
    audio = torch.eye(3)[[0, 0, 1, 2]]
    result = zero_shot(audio, torch.eye(3), torch.tensor([0, 1, 1, 2]), labels)
    assert result.accuracy == pytest.approx(3 / 4) and result.top5 == 1.0 and result.chance == pytest.approx(1 / 3)
    assert result.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert result.per_label == {"a": 1.0, "b": 0.5, "c": 1.0}


def test_a_label_without_clips_has_no_recall():
    result = zero_shot(torch.eye(2)[[0]], torch.eye(2), torch.tensor([0]), ["a", "b"])
    assert result.per_label == {"a": 1.0}


def test_top5_counts_the_five_nearest_only():
    audio = torch.nn.functional.normalize(torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]), dim=1)
    labels = list("abcdef")
    assert zero_shot(audio, torch.eye(6), torch.tensor([4]), labels).top5 == 1.0
    assert zero_shot(audio, torch.eye(6), torch.tensor([5]), labels).top5 == 0.0


def test_constant_embeddings_are_at_chance():
    rng = torch.Generator().manual_seed(0)
    audio = torch.nn.functional.normalize(torch.randn(90, 40, generator=rng), dim=1)
    target = torch.arange(90) % 9
    labels = [str(number) for number in range(9)]
    same = zero_shot(audio, audio[:1].expand(9, -1).contiguous(), target, labels)
    assert same.accuracy == pytest.approx(1 / 9) == same.chance and same.top5 == pytest.approx(5 / 9)
    assert list(same.per_label.values()) == pytest.approx([1 / 9] * 9)
    deaf = zero_shot(audio[:1].expand(90, -1).contiguous(), audio[:9], target, labels)
    assert deaf.accuracy == pytest.approx(1 / 9)  # always the same answer
    carried = np.eye(9, dtype=bool)[target]
    shares = average_precisions(cosines(audio[:1].expand(90, -1).contiguous(), audio[:9]), carried)
    assert shares == pytest.approx(carried.mean(axis=0))
    assert average_precisions(cosines(audio, audio[:9]), carried) != pytest.approx(shares)  # a control


def brute_force_hits(scores, carried, k):
    """The share of all orders of equal labels in which one of the first k is carried."""
    order = [o for o in itertools.permutations(range(len(scores))) if all(np.diff(scores[list(o)]) <= 0)]
    return np.mean([carried[list(o)[:k]].any() for o in order])


@pytest.mark.parametrize("k", [1, 2, 5])
def test_hits_are_expectations_over_the_orders_of_ties(k):
    rng = np.random.default_rng(0)
    cosine = rng.integers(0, 3, (60, 6)) / 3
    carried = rng.random((60, 6)) < 0.35
    carried[~carried.any(axis=1), 0] = True
    expected = [brute_force_hits(*row, k) for row in zip(cosine, carried, strict=True)]
    assert label_ranking(cosine, carried).recall(k) == pytest.approx(expected, abs=1e-12)
    assert label_ranking(cosine + 1e-6 * np.arange(6), carried).recall(k) != pytest.approx(expected)  # a control


def test_clips_of_several_labels():
    cosine = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.1], [0.3, 0.1, 0.2]])
    carried = np.array([[True, True, False], [False, False, True], [True, False, True]])
    hits = label_ranking(cosine, carried).recall(1)
    assert hits.tolist() == [1.0, 0.0, 1.0]
    assert confusion(cosine, carried).tolist() == [[2, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert per_class(hits, carried).tolist() == [1.0, 1.0, 0.5]


@pytest.mark.parametrize("levels", [5, 10_000])
def test_average_precision_is_scikit_learns(levels):
    """With many ties and with few; a label without a clip has none."""
    rng = np.random.default_rng(0)
    cosine = (rng.integers(0, levels, (200, 12)) / levels).astype(np.float32)
    carried = rng.random((200, 12)) < 0.1
    carried[:, 3] = False
    found = average_precisions(cosine, carried)
    expected = [
        np.nan if label == 3 else average_precision_score(carried[:, label], cosine[:, label]) for label in range(12)
    ]
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
    flipped = average_precisions(-cosine, carried)
    assert flipped != pytest.approx(expected, nan_ok=True)  # a control


def precision_without_copies(scores, carried, drawn):
    """The mean over the drawn clips that carry the label: how many of those as similar do? Other clips only."""
    precisions = []
    for clip in drawn:
        if carried[clip]:
            others = [other for other in drawn if other != clip and scores[other] >= scores[clip]]
            precisions.append((carried[others].sum() + 1) / (len(others) + 1))
    return np.mean(precisions) if precisions else np.nan


def test_draws_are_average_precisions_of_the_drawn_clips():
    rng = np.random.default_rng(1)
    cosine = (rng.integers(0, 30, (50, 4)) / 30).astype(np.float32)
    carried = rng.random((50, 4)) < 0.1
    rows = rng.integers(0, 50, (20, 50))
    rows[0] = np.flatnonzero(~carried[:, 0])[0]  # no clip that carries label 0
    counts = np.stack([np.bincount(one, minlength=50) for one in rows])
    called = []
    found = precision_draws(cosine, carried, counts, lambda: called.append(1))
    expected = [[precision_without_copies(cosine[:, i], carried[:, i], one) for i in range(4)] for one in rows]
    assert found == pytest.approx(np.array(expected), abs=1e-12, nan_ok=True)
    assert np.isnan(found[0, 0]) and len(called) == 4 and np.nanstd(found[:, 1]) > 0.01
    each = precision_draws(cosine, carried, np.ones((1, 50)))
    assert each[0] == pytest.approx(average_precisions(cosine, carried), abs=0)


def test_resamples_lie_around_the_number():
    """With copies that count for each other they lie above it."""
    rng = np.random.default_rng(2)
    carried = rng.random((400, 40)) < 0.02
    cosine = rng.standard_normal((400, 40)).astype(np.float32)
    value = np.nanmean(average_precisions(cosine, carried))
    rows = rng.integers(0, 400, (100, 400))
    counts = np.stack([np.bincount(one, minlength=400) for one in rows])
    means = np.nanmean(precision_draws(cosine, carried, counts), axis=1)
    copies = [np.nanmean(average_precisions(cosine[one], carried[one])) for one in rows]
    assert abs(means.mean() - value) < 2 * means.std() < np.mean(copies) - value


def test_equal_embeddings_give_equal_cosines():
    rng = torch.Generator().manual_seed(0)
    audio = torch.nn.functional.normalize(torch.randn(37, 512, generator=rng), dim=1)
    text = torch.nn.functional.normalize(torch.randn(13, 512, generator=rng), dim=1)
    rows, columns = torch.arange(370) % 37, torch.arange(130) % 13
    found = cosines(audio[rows], text[columns])
    assert (found == found[:37, :13][rows][:, columns]).all()
    assert found == pytest.approx((audio[rows] @ text[columns].T).numpy(), abs=1e-6)

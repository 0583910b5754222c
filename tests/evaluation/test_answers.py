import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from atr.evaluation.answers import (
    accuracy,
    average_precision,
    mean_average_precision,
    mean_of,
    tables,
    tables_of_several,
)
from atr.evaluation.bootstrap import resamples


def several(clips: int = 40, labels: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.random((clips, labels)) < 0.3
    return target, np.round(target * 0.3 + rng.random((clips, labels)), 1)  # many ties


def test_accuracy_with_its_interval() -> None:
    number, answer = np.arange(200) % 4, np.arange(200) % 4
    answer[:50] = (answer[:50] + 1) % 4
    found = accuracy(number, answer)
    assert (found.metric, found.value, found.n) == ("accuracy", 0.75, 200)
    spread = np.sqrt(0.75 * 0.25 / 200)
    assert found.low == pytest.approx(0.75 - 1.96 * spread, abs=0.01)
    assert found.high == pytest.approx(0.75 + 1.96 * spread, abs=0.01)


def test_average_precision_is_that_of_scikit_learn_on_every_resample() -> None:
    target, scores = several()
    statistic = average_precision(target[:, 0], scores[:, 0])
    weights = next(resamples(40))[:20]
    rows = [np.repeat(np.arange(40), weight.astype(int)) for weight in weights]
    expected = [average_precision_score(target[row, 0], scores[row, 0]) for row in rows]
    np.testing.assert_allclose(statistic(weights), expected, atol=1e-12)
    other = [average_precision_score(target[row, 0], -scores[row, 0]) for row in rows]
    assert np.abs(statistic(weights) - other).min() > 1e-3


def test_map_leaves_out_labels_that_no_clip_carries() -> None:
    target, scores = several()
    target[:, 2] = False
    there = [0, 1, 3, 4]
    found = mean_average_precision(target, scores)
    expected = np.mean([average_precision_score(target[:, i], scores[:, i]) for i in there])
    assert found.metric == "mAP" and found.value == pytest.approx(expected)
    weights = next(resamples(40))[:5]
    for weight, replicate in zip(weights, found.replicates, strict=False):
        row = np.repeat(np.arange(40), weight.astype(int))
        present = [i for i in there if target[row, i].any()]
        one = np.mean([average_precision_score(target[row, i], scores[row, i]) for i in present])
        assert replicate == pytest.approx(one)


def test_mean_of_folds_is_not_the_pooled_mean() -> None:
    first = accuracy(np.zeros(10, int), np.array([0] * 5 + [1] * 5))
    second = accuracy(np.zeros(90, int), np.zeros(90, int))
    both = mean_of([first, second])
    assert (both.value, both.n) == (0.75, 100)
    assert both.high - both.low == pytest.approx((first.high - first.low) / 2)


def test_tables() -> None:
    found = tables(["a", "b", "c"], np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    assert found["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert found["per_class"] == {
        "a": {"clips": 2, "recall": 0.5, "precision": 1.0},
        "b": {"clips": 2, "recall": 1.0, "precision": 2 / 3},
        "c": {"clips": 0, "recall": None, "precision": None},
    }
    target = np.array([[True, False], [True, False], [False, False]])
    assert tables_of_several(["a", "b"], target, np.array([[0.9, 0.1], [0.2, 0.1], [0.5, 0.1]]))["per_class"] == {
        "a": {"clips": 2, "average_precision": pytest.approx((1 + 2 / 3) / 2)},
        "b": {"clips": 0, "average_precision": None},
    }

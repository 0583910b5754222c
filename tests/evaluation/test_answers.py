import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from atr.evaluation.answers import measure, tables
from atr.evaluation.bootstrap import Measured, resamples
from atr.evaluation.record import MEAN, POOLED


def several_labels(clips: int = 40, labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.random((clips, labels)) < 0.3
    return target, np.round(target * 0.3 + rng.random((clips, labels)), 1)  # many ties


def slow_map(target: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Of clips drawn so often, of which a clip's copies are not found before each other; NaN without a clip."""
    weight = np.ones(len(target), int) if weight is None else weight
    found = []
    for label in range(target.shape[1]):
        precisions = []
        for clip in np.flatnonzero(target[:, label]):
            others = np.where(np.arange(len(target)) == clip, 1, weight)
            before = others * (scores[:, label] >= scores[clip, label])
            precisions += [before[target[:, label]].sum() / before.sum()] * int(weight[clip])
        found += [np.mean(precisions)] if precisions else []
    return float(np.mean(found))


def only(rows: dict[str, list[Measured]], fold: str = POOLED) -> Measured:
    (one,) = rows[fold]
    return one


def test_accuracy_with_its_interval() -> None:
    number = np.arange(200) % 4
    answer = np.where(np.arange(200) < 50, (number + 1) % 4, number)
    rows = measure(np.eye(4, dtype=bool)[number], np.eye(4)[answer], ["fold1"] * 200, several=False)
    found = only(rows)
    assert list(rows) == [POOLED]
    assert (found.metric, found.value, found.n) == ("accuracy", 0.75, 200)
    spread = np.sqrt(0.75 * 0.25 / 200)
    assert found.low == pytest.approx(0.75 - 1.96 * spread, abs=0.01)
    assert found.high == pytest.approx(0.75 + 1.96 * spread, abs=0.01)


def test_map_is_that_of_scikit_learn_and_its_replicates_those_of_drawn_clips() -> None:
    target, scores = several_labels()
    target[:, 2] = False
    found = only(measure(target, scores, ["fold1"] * 40, several=True))
    there = [average_precision_score(target[:, label], scores[:, label]) for label in (0, 1, 3, 4)]
    assert found.metric == "mAP" and found.value == pytest.approx(np.mean(there)) == slow_map(target, scores)
    assert abs(found.value - slow_map(target, -scores)) > 0.05
    for weight, replicated in zip(next(resamples(40))[:5], found.replicates[:5], strict=True):
        assert replicated == pytest.approx(slow_map(target, scores, weight))


@pytest.mark.parametrize("several", [False, True])
def test_folds_and_their_mean(several: bool) -> None:
    target, scores = several_labels()
    if not several:
        target = np.eye(5, dtype=bool)[np.arange(40) % 5]
    folds = np.array(["a"] * 10 + ["b"] * 30)
    rows = measure(target, scores, list(folds), several)

    def slow(name: str, weight: np.ndarray) -> float:
        row = folds == name
        if several:
            return slow_map(target[row], scores[row], weight[row])
        hit = target[row].argmax(axis=1) == scores[row].argmax(axis=1)
        return float(np.average(hit, weights=weight[row]))

    of_folds = [slow(name, np.ones(40, int)) for name in "ab"]
    assert [only(rows, name).value for name in "ab"] == pytest.approx(of_folds)
    assert only(rows, MEAN).value == pytest.approx(np.mean(of_folds))
    assert abs(only(rows).value - np.mean(of_folds)) > 0.005
    assert [only(rows, name).n for name in (POOLED, MEAN, "a", "b")] == [40, 40, 10, 30]
    weight = next(resamples(40))[3]
    assert only(rows, MEAN).replicates[3] == pytest.approx(np.mean([slow(name, weight) for name in "ab"]))


def test_a_fold_that_a_resample_lacks_is_left_out_of_its_mean() -> None:
    target = np.eye(2, dtype=bool)[[0, 1, 0]]
    rows = measure(target, target * 1.0, ["a", "a", "b"], several=False)
    assert np.isfinite(only(rows, MEAN).replicates).all()


def test_tables() -> None:
    target = np.eye(3, dtype=bool)[[0, 0, 1, 1]]
    assert tables(["a", "b", "c"], target, np.eye(3)[[0, 1, 1, 1]], several=False) == {
        "labels": ["a", "b", "c"],
        "per_class": {"a": 0.5, "b": 1.0},
        "confusion": [[1, 1, 0], [0, 2, 0], [0, 0, 0]],
    }
    target = np.array([[True, False], [True, False], [False, False]])
    assert tables(["a", "b"], target, np.array([[0.9, 0.1], [0.2, 0.1], [0.5, 0.1]]), several=True) == {
        "labels": ["a", "b"],
        "per_class": {"a": pytest.approx((1 + 2 / 3) / 2)},
    }

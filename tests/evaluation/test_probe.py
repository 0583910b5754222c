import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

import atr.evaluation.probe as probe
from atr.errors import DataError
from atr.evaluation.probe import GRID, Probe, fit, inner_parts, linear_probe, mean_score
from tests.evaluation.encoded import blobs


def one_hot(number: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=bool)[number]


def each(count: int) -> list[str]:
    """Clips without groups."""
    return [str(row) for row in range(count)]


def slow_fit(train: np.ndarray, target: np.ndarray, test: np.ndarray, c: float) -> np.ndarray:
    """The definition: C times the sum of the losses plus half the squared weights, the intercepts free."""
    torch.set_num_threads(1)
    x, y = torch.tensor(train, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    weights = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, requires_grad=True)
    intercept = torch.zeros(y.shape[1], dtype=torch.float64, requires_grad=True)
    single = bool((target.sum(axis=1) == 1).all())
    optimizer = torch.optim.LBFGS([weights, intercept], max_iter=2000, tolerance_grad=1e-10, tolerance_change=1e-14)

    def cost() -> torch.Tensor:
        optimizer.zero_grad()
        logits = x @ weights + intercept
        if single:
            losses = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
        else:
            losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="sum")
        total = losses + (weights**2).sum() / (2 * c)
        total.backward()
        return total

    for _ in range(5):
        optimizer.step(cost)
    logits = torch.tensor(test, dtype=torch.float64) @ weights + intercept
    return (logits.softmax(dim=1) if single else logits.sigmoid()).detach().numpy()


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_the_fit_is_penalised_logistic_regression(c: float) -> None:
    (train, number), (test, _) = blobs(60), blobs(21, seed=1)
    scores, unfinished = fit(train.astype(float), one_hot(number, 3), test.astype(float), c, several=False)
    assert unfinished == 0
    np.testing.assert_allclose(scores, slow_fit(train, one_hot(number, 3), test, c), atol=1e-4)
    assert np.abs(scores - slow_fit(train, one_hot(number, 3), test, 3 * c)).max() > 1e-2


def test_several_labels_are_fitted_each_by_itself() -> None:
    (train, number), (test, _) = blobs(60), blobs(21, seed=1)
    target = one_hot(number, 3) | one_hot((number + (np.arange(60) % 2)) % 3, 3)
    scores, _ = fit(train.astype(float), target, test.astype(float), 10.0, several=True)
    np.testing.assert_allclose(scores, slow_fit(train, target, test, 10.0), atol=1e-4)
    assert np.abs(scores.sum(axis=1) - 1).max() > 0.1  # no shares of one


def test_separable_clips_are_told_apart_and_the_numbers_are_the_same_twice() -> None:
    (train, number), (test, truth) = blobs(90, noise=0.1), blobs(30, noise=0.1, seed=1)
    first, second = (linear_probe(train, one_hot(number, 3), test, each(90)) for _ in range(2))
    assert (first.scores.argmax(axis=1) == truth).all()
    assert first.scores.tobytes() == second.scores.tobytes() and first == Probe(
        first.scores, second.c, second.validated, second.remarks
    )


def test_c_is_chosen_by_answers_of_fits_that_did_not_see_the_group() -> None:
    train, number = blobs(60, noise=0.8)
    test, _ = blobs(21, noise=0.8, seed=1)
    groups = [f"fold{row // 12}" for row in range(60)]
    grid = [0.01, 1.0, 100.0]
    expected = {}
    for c in grid:
        right = 0
        for fold in sorted(set(groups)):
            out = np.array(groups) == fold
            answers = slow_fit(train[~out], one_hot(number, 3)[~out], train[out], c).argmax(axis=1)
            right += int((answers == number[out]).sum())
        expected[c] = right / 60
    found = linear_probe(train, one_hot(number, 3), test, groups, grid=grid)
    assert found.validated == pytest.approx(expected)
    assert found.c == max(grid, key=lambda c: (expected[c], -c))
    assert len(set(expected.values())) > 1


def test_no_group_is_in_two_parts_and_labels_are_spread() -> None:
    number = np.arange(120) % 4
    groups = [f"recording{row // 4}" for row in range(120)]
    parts = inner_parts(one_hot(number, 4), groups)
    assert sorted(set(parts.tolist())) == [0, 1, 2, 3, 4]
    assert all(len(set(parts[np.array(groups) == one].tolist())) == 1 for one in set(groups))
    assert all(np.bincount(number[parts == part], minlength=4).min() >= 4 for part in range(5))
    alone = inner_parts(one_hot(number, 4), each(120))
    assert any(len(set(alone[np.array(groups) == one].tolist())) > 1 for one in set(groups))


def test_random_labels_give_chance() -> None:
    rng = np.random.default_rng(3)
    train, test = rng.normal(size=(300, 16)), rng.normal(size=(400, 16))
    number, truth = rng.integers(0, 4, 300), rng.integers(0, 4, 400)
    found = linear_probe(train, one_hot(number, 4), test, each(300))
    accuracy = (found.scores.argmax(axis=1) == truth).mean()
    assert abs(accuracy - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)


def test_mean_score_is_accuracy_or_map() -> None:
    target = one_hot(np.array([0, 1, 2]), 3)
    assert mean_score(target, np.eye(3)[[0, 1, 1]], several=False) == pytest.approx(2 / 3)
    target = np.array([[1, 0], [1, 1], [0, 1]], bool)
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.3]])
    assert mean_score(target, scores, several=True) == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)


def test_fits_that_do_not_converge_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, number), (test, _) = blobs(60), blobs(21, seed=1)
    monkeypatch.setattr(probe, "ITERATIONS", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        found = linear_probe(train, one_hot(number, 3), test, each(60), grid=[1.0, 100.0])
    assert found.remarks[0] == "fits at C=1 stopped at 2 iterations while C was chosen: 5"
    assert found.remarks[-1] == f"fits at the chosen C={found.c:g} stopped at 2 iterations: 1"


def test_a_c_at_the_end_of_the_grid_is_a_remark() -> None:
    train, number = blobs(60, noise=0.1)
    number[number == 2] = 1  # most clips: what a strong penalty always answers
    found = linear_probe(train, one_hot(number, 2), train, each(60), grid=[1e-6, 1e-5, 10.0])
    assert found.remarks == ["the chosen C=10 is at the end of the grid 1e-06 … 10"]
    assert linear_probe(train, one_hot(number, 2), train, each(60)).remarks == []


def test_a_label_that_a_part_lacks_does_not_stop_the_choice() -> None:
    train, number = blobs(61)
    number[:1] = 3
    found = linear_probe(train, one_hot(number, 4), train, each(61), grid=GRID[2:4])
    assert found.scores.shape == (61, 4) and np.isfinite(found.scores).all()


def test_what_gives_no_numbers() -> None:
    train, number = blobs(12)
    target = one_hot(number, 3)
    with pytest.raises(DataError, match="there is no test clip"):
        linear_probe(train, target, train[:0], each(12))
    with pytest.raises(DataError, match="there is no training clip"):
        linear_probe(train[:0], target[:0], train, [])
    broken = train.copy()
    broken[3, 1] = np.nan
    with pytest.raises(DataError, match="1 of 12 test clips are NaN"):
        linear_probe(train, target, broken, each(12))
    with pytest.raises(DataError, match="1 of 12 training clips are NaN"):
        linear_probe(broken, target, train, each(12))
    with pytest.raises(DataError, match="all training clips have the same label"):
        linear_probe(train, np.ones((12, 1), bool), train, each(12))
    with pytest.raises(DataError, match="1 labels stand on every training clip"):
        linear_probe(train, np.stack([number == 0, np.ones(12, bool)], axis=1), train, each(12))
    with pytest.raises(DataError, match="12 of 1 groups"):
        linear_probe(train, target, train, ["fold1"] * 12)
    with pytest.raises(DataError, match="at most 1 of a label"):
        linear_probe(train[:3], target[:3], train, each(3))

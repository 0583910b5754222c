"""The numbers of a zero-shot task: by fold, by class, with intervals; against loops over the resamples."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from atr.errors import DataError
from atr.evaluation import judge as module
from atr.evaluation.bootstrap import DRAWS, resamples
from atr.evaluation.judge import judge
from atr.evaluation.record import MEAN, POOLED
from atr.evaluation.tasks import Task, ask
from tests.evaluation.test_tasks import clips_of
from tests.evaluation.test_zero_shot import precision_without_copies


def judged(task, labels, cosine, folds=None):
    clips = clips_of(labels)
    if folds is not None:
        clips.folds[:] = folds
    about = {"dataset": "set", "prompts": "own", "templates": ["{label}"], "windows": "mean", "progress": False}
    return judge(task, ask(task, clips), torch.zeros(len(cosine), 2), cosine, **about)


def random_task(clips, count, several=False):
    """Labels, each of which stands on some clip, and cosines that are better than chance."""
    rng = np.random.default_rng(0)
    carried = np.eye(count, dtype=bool)[np.arange(clips) % count]
    if several:
        carried |= rng.random(carried.shape) < 0.1
    cosine = (rng.standard_normal((clips, count)) + 1.0 * carried).astype(np.float32)
    names = [f"label{number}" for number in range(count)]
    return [[names[i] for i in np.flatnonzero(row)] for row in carried], cosine, carried


def test_numbers_by_fold_and_their_mean():
    labels, cosine, carried = random_task(90, 6)
    folds = ["fold10"] * 60 + ["fold2"] * 30
    result = judged(Task(name="own", title="Own"), labels, cosine, folds)
    right = carried[np.arange(90), cosine.argmax(axis=1)]
    five = (np.argsort(-cosine, axis=1)[:, :5] == carried.argmax(axis=1)[:, None]).any(axis=1)
    assert list(result.rows) == [POOLED, MEAN, "fold2", "fold10"] and result.chance == pytest.approx(1 / 6)
    values = {name: [row.value for row in rows] for name, rows in result.rows.items()}
    assert values[POOLED] == pytest.approx([right.mean(), five.mean()])
    assert values["fold10"] == pytest.approx([right[:60].mean(), five[:60].mean()])
    assert values["fold2"] == pytest.approx([right[60:].mean(), five[60:].mean()])
    assert values[MEAN] == pytest.approx((np.array(values["fold2"]) + values["fold10"]) / 2)
    assert values[MEAN] != pytest.approx(values[POOLED])  # they differ where folds do
    assert [(row.metric, row.n) for row in result.rows["fold2"]] == [("accuracy", 30), ("top5", 30)]
    assert result.answers == [f"label{i}" for i in cosine.argmax(axis=1)]
    assert result.confusion.sum() == 90 and result.confusion.trace() == right.sum()
    assert result.per_class["label0"].clips == 15 and result.per_class["label0"].value == right[::6].mean()


def test_intervals_are_those_of_the_resamples():
    labels, cosine, carried = random_task(80, 4)
    folds = ["a"] * 50 + ["b"] * 30
    result = judged(Task(name="own", title="Own"), labels, cosine, folds)
    right = carried[np.arange(80), cosine.argmax(axis=1)].astype(float)
    replicates = {POOLED: [], MEAN: [], "a": []}
    for weights in np.concatenate(list(resamples(80))).astype(int):
        drawn = np.repeat(np.arange(80), weights)
        replicates[POOLED].append(right[drawn].mean())
        replicates[MEAN].append((right[drawn[drawn < 50]].mean() + right[drawn[drawn >= 50]].mean()) / 2)
    for weights in np.concatenate(list(resamples(50))).astype(int):
        replicates["a"].append(right[np.repeat(np.arange(50), weights)].mean())
    for name, expected in replicates.items():
        (row,) = result.rows[name]
        assert row.replicates == pytest.approx(expected) and row.metric == "accuracy"  # four labels have no top5
        assert [row.low, row.high] == pytest.approx(np.percentile(expected, [2.5, 97.5]).tolist())
        assert row.low < row.value < row.high
    assert replicates[MEAN] != pytest.approx(replicates[POOLED])


def test_mean_average_precision(monkeypatch):
    labels, cosine, carried = random_task(60, 5, several=True)
    task = Task(name="own", title="Own", kind="multi-label", labels=(*(f"label{n}" for n in range(5)), "nowhere"))
    cosine = np.concatenate([cosine, cosine[:, :1]], axis=1)
    result = judged(task, labels, cosine)
    own = [average_precision_score(carried[:, i], cosine[:, i]) for i in range(5)]
    (row,) = result.rows[POOLED]
    assert (row.metric, row.value, row.n, len(row.replicates)) == ("mAP", pytest.approx(np.mean(own)), 60, DRAWS)
    assert {name: one.value for name, one in result.per_class.items()} == {
        f"label{i}": pytest.approx(value) for i, value in enumerate(own)
    }
    assert result.confusion is None and result.remarks == ["no clip carries nowhere: left out of the mean"]
    assert result.chance == pytest.approx(carried.mean())
    expected = []
    for weights in np.concatenate(list(resamples(60)))[:50].astype(int):
        drawn = np.repeat(np.arange(60), weights)
        each = [precision_without_copies(cosine[:, i], carried[:, i], drawn) for i in range(5)]
        expected.append(np.nanmean(each))
    assert row.replicates[:50] == pytest.approx(expected) and row.low < row.value < row.high
    monkeypatch.setattr(module, "WORK", 60 * 6 * 250)
    assert len(judged(task, labels, cosine).rows[POOLED][0].replicates) == 250
    monkeypatch.setattr(module, "WORK", 1)
    few = judged(task, labels, cosine, ["a"] * 30 + ["b"] * 30).rows
    assert {name: len(rows[0].replicates) for name, rows in few.items()} == {POOLED: 100, MEAN: 100, "a": 100, "b": 100}
    assert few[MEAN][0].value == pytest.approx((few["a"][0].value + few["b"][0].value) / 2)


def test_any_answer_of_several_is_right():
    task = Task(name="own", title="Own", kind="any-of", labels=("a", "b", "c"))
    cosine = np.array([[0.9, 0.1, 0.2], [0.1, 0.2, 0.9], [0.1, 0.9, 0.2]], np.float32)
    result = judged(task, [["a", "b"], ["a"], ["b", "c", "x"], ["x"]], cosine)
    assert result.rows[POOLED][0].value == pytest.approx(2 / 3) and result.chance == pytest.approx(5 / 9)
    assert result.remarks == ["1 clips carry none of the labels and are left out"]
    assert result.confusion.tolist() == [[1, 0, 1], [1, 1, 0], [0, 1, 0]]


def test_a_fold_with_the_name_of_another_row_is_refused():
    labels, cosine, _ = random_task(12, 3)
    with pytest.raises(DataError, match="a fold is called 'all', which is what another row is called"):
        judged(Task(name="own", title="Own"), labels, cosine, ["all"] * 6 + ["test"] * 6)

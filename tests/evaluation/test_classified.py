"""What is drawn of a classification, against small cases worked out by hand."""

import numpy as np
import pytest

from atr.errors import DataError
from atr.evaluation.classified import Answer, bars, hardest, mixed_up, read_classified
from tests.evaluation.made import result


def answers(**margins):
    """Wrong answers with these margins; 0 stands for a right one."""
    return {name: Answer("a", "b" if margin else "a", 0.1, 0.1 + margin) for name, margin in margins.items()}


def test_the_hardest_clips_come_first_and_right_ones_never():
    run = answers(easy=0.0, worst=0.5, same_b=0.2, same_a=0.2)
    assert hardest([run], 12) == ["worst", "same_a", "same_b"]
    assert hardest([run], 2) == ["worst", "same_a"]
    assert hardest([], 12) == hardest([{}, answers(one=0.0)], 12) == []


def test_several_runs_take_turns_and_no_clip_comes_twice():
    first, second = answers(p=0.9, q=0.8, r=0.7), answers(p=0.6, s=0.5)
    assert hardest([first, second], 12) == ["p", "q", "s", "r"]
    assert hardest([first, second], 3) == ["p", "q", "s"]


def test_bars_of_few_labels_are_all_there_and_of_many_the_extremes():
    few = bars([{"a": 0.2, "b": 0.9}, {"a": 0.8, "c": 0.5}])
    assert few.rows == [("b", [0.9, None]), ("c", [None, 0.5]), ("a", [0.2, 0.8])] and few.left_out == 0
    many = bars([{f"{number:03d}": number / 527 for number in range(527)}])
    shown = [int(label) for label, _ in many.rows]
    assert shown == [*range(526, 506, -1), *range(19, -1, -1)] and many.left_out == 487


def test_the_labels_mixed_up_most_often():
    confusion = np.array([[5, 0, 2], [3, 1, 0], [2, 0, 0]])
    found = [(one.label, one.answer, one.clips, one.of) for one in mixed_up(["a", "b", "c"], confusion)]
    assert found == [("b", "a", 3, 4), ("a", "c", 2, 7), ("c", "a", 2, 2)]
    assert mixed_up(["a", "b"], np.eye(2, dtype=np.int64)) == []
    assert len(mixed_up([str(i) for i in range(50)], np.ones((50, 50), np.int64))) == 12


def test_a_retrieval_result_is_no_classification():
    assert read_classified(result(np.ones(4), "retrieval")) is None


def test_what_is_shown_is_checked():
    one = result(np.ones(4))
    answer = {"id": "x", "label": "a", "answer": "b", "score_label": 0.1, "score_answer": 0.4}
    one.shown = {"labels": ["a", "b"], "confusion": [[1, 1], [0, 2]], "per_class": {"a": 0.5}, "answers": [answer]}
    found = read_classified(one)
    assert (
        found.confusion.sum() == 4 and found.answers["x"].margin == pytest.approx(0.3) and found.per_class == {"a": 0.5}
    )
    one.shown = {"labels": ["a", "b"], "per_class": {"a": 0.5, "b": 0.25}}
    assert read_classified(one).confusion is None and read_classified(one).answers == {}


@pytest.mark.parametrize(
    "shown, reason",
    [
        ({"labels": ["a"], "confusion": [[1, 2], [3, 4]]}, r"shape \(2, 2\) for 1 labels"),
        ({"labels": ["a", "b"], "confusion": [[1, 2], [3]]}, "ValueError"),
        ({"per_class": ["a"]}, "AttributeError"),
        ({"per_class": {"a": "high"}}, "could not convert"),
        ({"answers": [{"id": "x"}]}, "KeyError: 'label'"),
    ],
)
def test_damaged_pictures_are_named(shown, reason):
    one = result(np.ones(4))
    one.shown = shown
    with pytest.raises(DataError, match=rf"of zero-shot on notes is damaged.*{reason}.*measure it again"):
        read_classified(one)

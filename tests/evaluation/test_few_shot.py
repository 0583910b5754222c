import numpy as np
import pytest

from atr.errors import DataError, UsageError
from atr.evaluation.few_shot import draw_ranks, few_shot, few_shot_answers, nearest_mean
from atr.evaluation.record import POOLED, Result
from atr.evaluation.sets import EncodedSet
from tests.evaluation.encoded import blobs, encoded, names


def of(train: EncodedSet, test: EncodedSet, **settings: object) -> Result:
    return few_shot(train, test, "model.ckpt", "0" * 64, **settings)


def train_and_test(noise: float = 0.8) -> tuple[EncodedSet, EncodedSet]:
    (train, number), (test, truth) = blobs(60, noise=noise), blobs(90, noise=noise, seed=1)
    return encoded(train, names(number), name="train"), encoded(test, names(truth), name="test")


def test_a_draw_takes_k_clips_of_each_class_and_holds_the_smaller_ones() -> None:
    number = np.array([0] * 5 + [1] * 9 + [2] * 4)
    ranks = draw_ranks(number, [str(row) for row in range(18)], draw=3)
    for one, count in enumerate((5, 9, 4)):
        assert sorted(ranks[number == one].tolist()) == list(range(count))
    again, other = (draw_ranks(number, [str(row) for row in range(18)], draw=draw) for draw in (3, 4))
    assert (ranks == again).all() and (ranks != other).any()
    assert (ranks != draw_ranks(number, [str(row) for row in range(18)], draw=3, seed=1)).any()


def test_each_clip_is_drawn_as_often() -> None:
    number = np.zeros(6, int)
    first = [int(draw_ranks(number, list("abcdef"), draw).argmin()) for draw in range(600)]
    assert np.bincount(first, minlength=6).min() > 100 - 4 * np.sqrt(600 * 5 / 36)


def test_recordings_give_one_clip_each_before_one_gives_a_second() -> None:
    number = np.array([0] * 8 + [1] * 4)
    recordings = ["x"] * 5 + ["y"] * 2 + ["z"] + ["x"] * 4
    for draw in range(20):
        order = np.argsort(np.where(number == 0, draw_ranks(number, recordings, draw), 99))
        assert sorted(recordings[row] for row in order[:3]) == ["x", "y", "z"]
        assert sorted(recordings[row] for row in order[3:5]) == ["x", "y"]
    alone = [np.argsort(draw_ranks(number[:8], [str(row) for row in range(8)], draw))[:3] for draw in range(20)]
    assert any(sorted(recordings[row] for row in rows) != ["x", "y", "z"] for rows in alone)


def test_nearest_mean_by_hand() -> None:
    train = np.array([[1, 0], [0.6, 0.8], [0, 1], [0, 1]], np.float32)
    test = np.array([[1, 0], [0.6, 0.8], [0.3, 0.954]], np.float32)
    cosines = test @ np.array([[0.8944, 0], [0.4472, 1]])  # of (1.6, 0.8) and (0, 1)
    assert nearest_mean(train, np.array([0, 0, 1, 1]), test, 2).tolist() == cosines.argmax(axis=1).tolist() == [0, 0, 1]


def test_the_slow_obvious_version() -> None:
    (train, number), (test, _) = blobs(60, noise=0.8), blobs(90, noise=0.8, seed=1)
    recordings = [str(row) for row in range(60)]
    found = few_shot_answers(train, number, test, recordings, shots=(1, 3), draws=4, seed=7)
    for draw in range(4):
        ranks = draw_ranks(number, recordings, draw, seed=7)
        for k in (1, 3):
            expected = []
            for vector in test:
                means = [
                    np.mean([train[row] for row in range(60) if number[row] == one and ranks[row] < k], axis=0)
                    for one in range(3)
                ]
                expected.append(int(np.argmax([vector @ mean / np.linalg.norm(mean) for mean in means])))
            assert found[k][draw].tolist() == expected
    assert (found[1] != found[3]).any()


def test_more_shots_are_better_and_the_numbers_are_the_same_twice() -> None:
    train, test = train_and_test()
    first, second = (of(train, test) for _ in range(2))
    values = [one.value for one in first.rows[POOLED]]
    assert [one.metric for one in first.rows[POOLED]] == [f"{k}-shot accuracy" for k in (1, 2, 4, 8, 16)]
    assert values == [one.value for one in second.rows[POOLED]] and values[0] + 0.05 < values[-1]
    for one, other in zip(first.rows[POOLED], second.rows[POOLED], strict=True):
        assert one.low < one.value < one.high and (one.replicates == other.replicates).all()
    assert np.mean(first.shown["draws"]["4"]) == pytest.approx(values[2]) and len(first.shown["draws"]["4"]) == 10
    assert first.protocol.task == "few-shot" and first.protocol.settings["seed"] == 0
    assert of(train, test, seed=1).value("1-shot accuracy") != values[0]


def test_the_interval_is_over_draws_and_clips() -> None:
    """Wider than over clips alone, and than over draws alone."""
    train, test = train_and_test()
    one = of(train, test, shots=[1], draws=5)
    width = np.std(one.rows[POOLED][0].replicates)
    of_draws = np.array(one.shown["draws"]["1"])
    over_draws = np.std(of_draws) / np.sqrt(5)
    p = one.value("1-shot accuracy")
    assert over_draws < width < np.hypot(over_draws, np.sqrt(p * (1 - p) / 90)) * 1.1


def test_random_labels_give_chance() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = names(rng.integers(0, 4, 400))
    found = of(encoded(vectors[:100], labels[:100], name="train"), encoded(vectors[100:], labels[100:], name="test"))
    assert all(one.low - 0.02 < 0.25 < one.high + 0.02 for one in found.rows[POOLED])


def test_a_k_that_a_class_has_too_few_clips_for_is_left_out() -> None:
    train, test = train_and_test()
    train.clips.labels[:] = [["a"] if one == ["c"] and row > 9 else one for row, one in enumerate(train.clips.labels)]
    found = of(train, test)
    assert [one.metric for one in found.rows[POOLED]] == ["1-shot accuracy", "2-shot accuracy"]
    assert found.remarks == ["4, 8, 16 shots are left out: 'c' has 3 training clips"]
    with pytest.raises(DataError, match=r"'c' has 3 training clips, less than the smallest of shots=\[4\]"):
        of(train, test, shots=[4])


def test_what_gives_no_numbers() -> None:
    train, test = train_and_test()
    with pytest.raises(UsageError, match=r"shots=\[0\], draws=10: \[0\] is not allowed"):
        of(train, test, shots=[0])
    with pytest.raises(UsageError, match="draws=0"):
        of(train, test, draws=0)
    with pytest.raises(UsageError, match="no k is given"):
        of(train, test, shots=[])
    with pytest.raises(DataError, match="90 clips are in the training set and in the test set"):
        of(test, test)
    several = encoded(train.audio.numpy(), [["a", "b"], *train.clips.labels[1:]], name="train")
    with pytest.raises(DataError, match="some clips carry several labels"):
        of(several, test)
    with pytest.raises(DataError, match="all training clips have the same label"):
        of(encoded(train.audio.numpy(), [["a"]] * 60, name="train"), encoded(test.audio.numpy(), [["a"]] * 90))
    test.clips.labels[0] = ["siren"]
    with pytest.raises(DataError, match="'siren'"):
        of(train, test)
    test.clips.labels[0] = ["a"]
    test.audio[0, 0] = np.inf
    with pytest.raises(DataError, match="1 of 90 test clips are NaN or infinite"):
        of(train, test)

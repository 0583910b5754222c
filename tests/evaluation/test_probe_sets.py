from pathlib import Path

import numpy as np
import pytest

import atr
from atr.errors import DataError, UsageError
from atr.evaluation.probe_sets import probe_folds, probe_sets
from atr.evaluation.record import MEAN, POOLED, Result, read_results, write_results
from atr.evaluation.sets import EncodedSet, encode_set, read_set
from tests.evaluation.encoded import blobs, encoded, names


def of(train: EncodedSet, test: EncodedSet) -> Result:
    return probe_sets(train, test, "model.ckpt", "0" * 64)


def over_folds(one: EncodedSet) -> Result:
    return probe_folds(one, "model.ckpt", "0" * 64)


def train_and_test(noise: float = 0.3, **changes: object) -> tuple[EncodedSet, EncodedSet]:
    (train, number), (test, truth) = blobs(60, noise=noise), blobs(40, noise=noise, seed=1)
    return encoded(train, names(number), name="train"), encoded(test, names(truth), name="test", **changes)


def recordings(count: int = 40, clips: int = 5, folds: int = 4) -> EncodedSet:
    """Recordings whose label is a coin's; a recording's clips are alike, and nothing else is. Each lies in one fold."""
    rng = np.random.default_rng(5)
    vectors = np.repeat(rng.normal(size=(count, 64)), clips, axis=0) + 0.01 * rng.normal(size=(count * clips, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    number = np.repeat(rng.permutation(np.arange(count) % 2), clips)
    recording = np.repeat(np.arange(count), clips)
    return encoded(
        vectors, names(number), [f"fold{one % folds + 1}" for one in recording], [f"freesound:{r}" for r in recording]
    )


def test_one_set_learnt_from_and_another_asked_about() -> None:
    train, test = train_and_test(noise=0.6, folds=["fold1", "fold2"] * 20)
    result = of(train, test)
    accuracy, answers = result.value("accuracy"), result.shown["answers"]
    assert accuracy == pytest.approx(np.mean([one["label"] == one["answer"] for one in answers]))
    assert 0.5 < accuracy < 1
    assert [one["id"] for one in answers] == test.clips.ids
    assert result.rows[POOLED][0].low < accuracy < result.rows[POOLED][0].high
    assert accuracy == pytest.approx((result.value("accuracy", "fold1") + result.value("accuracy", "fold2")) / 2)
    assert np.trace(result.shown["confusion"]) == round(accuracy * 40)
    assert result.shown["labels"] == ["a", "b", "c"] and result.shown["chance"] == pytest.approx(1 / 3)
    assert result.shown["majority"] == pytest.approx(14 / 40)
    about = result.protocol
    assert (about.task, about.dataset, about.clips, about.windows) == ("probe", "test", 40, "mean")
    assert about.manifest_sha256 == test.clips.manifest_sha256 != about.settings["train_manifest_sha256"]
    assert about.settings["c_chosen_by"].endswith("whole clips")


def test_the_numbers_are_the_same_twice_and_a_file_keeps_them(tmp_path: Path) -> None:
    first, second = (of(*train_and_test()) for _ in range(2))
    for number, result in enumerate((first, second)):
        write_results(tmp_path / f"{number}.json", [result])
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    kept = read_results(tmp_path / "0.json")[0]
    assert kept.value("accuracy") == first.value("accuracy") and kept.shown == first.shown


def test_folds_are_respected() -> None:
    """Within a recording all is the same, so a probe that mixed the folds would know its test clips: the control."""
    clips = recordings()
    respected = over_folds(clips)
    assert respected.value("accuracy") < 0.65 and respected.rows[POOLED][0].low < 0.5
    assert not any("share" in remark for remark in respected.remarks)
    assert respected.protocol.settings["c_chosen_by"].endswith("whole folds")
    mixed = recordings()
    mixed.clips.folds[:] = [f"fold{row % 4 + 1}" for row in range(len(mixed.clips))]
    leaking = over_folds(mixed)
    assert leaking.value("accuracy") == 1.0
    assert "200 clips share a recording with a clip of another fold; `atr leaks` tells more" in leaking.remarks


def test_rows_of_folds_their_mean_and_all_clips() -> None:
    audio, number = blobs(70, noise=0.6)
    folds = ["one"] * 10 + ["three"] * 20 + ["two"] * 40
    result = over_folds(encoded(audio, names(number), folds))
    values = [result.value("accuracy", fold) for fold in ("one", "two", "three")]
    assert result.value("accuracy", MEAN) == pytest.approx(np.mean(values))
    assert result.value("accuracy") == pytest.approx(np.average(values, weights=[10, 40, 20]))
    assert list(result.rows) == [POOLED, MEAN, "one", "three", "two"]
    assert result.protocol.settings["folds"] == ["one", "three", "two"]
    assert set(result.shown["c"]) == {"one", "three", "two"}


def test_each_fold_is_answered_by_a_probe_of_the_others() -> None:
    audio, number = blobs(60, noise=0.6)
    folds = np.array([f"fold{row // 20 + 1}" for row in range(60)])
    result = over_folds(encoded(audio, names(number), list(folds)))
    answers = {one["id"]: one["answer"] for one in result.shown["answers"]}
    for fold in ("fold1", "fold2", "fold3"):
        out = folds == fold
        train = encoded(audio[~out], names(number[~out]), list(folds[~out]), name="train")
        alone = of(train, encoded(audio[out], names(number[out]), name="test"))
        assert alone.value("accuracy") == result.value("accuracy", fold)
        own = [answers[f"set{row:04d}"] for row in np.flatnonzero(out)]
        assert [one["answer"] for one in alone.shown["answers"]] == own


def test_recordings_are_not_divided_when_c_is_chosen() -> None:
    """A weak penalty only helps where a part's clips are of recordings that the fit has heard."""
    clips, other = recordings(), blobs(30, classes=2, width=64, seed=4)
    test = encoded(other[0], names(other[1]), name="test")
    clips.clips.folds[:] = ["fold1"] * 200
    kept = of(clips, test)
    assert kept.protocol.settings["c_chosen_by"].endswith("whole recordings")
    assert max(kept.shown["validated"]["set"].values()) < 0.7
    clips.clips.sources[:] = [""] * 200
    assert max(of(clips, test).shown["validated"]["set"].values()) == 1.0


def test_clips_of_several_labels_give_map() -> None:
    (train, number), (test, truth) = blobs(60), blobs(40, seed=1)

    def both(number: np.ndarray) -> list[list[str]]:
        return [[a, "odd"] if row % 2 else [a] for row, (a,) in enumerate(names(number))]

    result = of(encoded(train, both(number), name="train"), encoded(test, both(truth), name="test"))
    assert result.shown["labels"] == ["a", "b", "c", "odd"] and "confusion" not in result.shown
    each = list(result.shown["per_class"].values())
    assert result.value("mAP") == pytest.approx(np.mean(each))
    assert min(each[:3]) > 0.8 > 0.7 > each[3]  # odd stands anywhere
    folds = [f"fold{row // 20}" for row in range(60)]
    assert over_folds(encoded(train, both(number), folds)).value("mAP", MEAN) > 0.7


def test_clips_without_a_label_are_left_out_and_counted() -> None:
    train, test = train_and_test()
    test.clips.labels[3] = []
    result = of(train, test)
    assert result.protocol.clips == 39 and "test0003" not in [one["id"] for one in result.shown["answers"]]
    assert result.remarks == ["test: 1 of 40 clips have no label and are left out"]


def test_what_training_may_know_is_a_remark() -> None:
    train, test = train_and_test(sources=["freesound:7"] + [""] * 39)
    train.clips.sources[5] = "freesound:7"
    test.audio[2] = train.audio[9]
    assert of(train, test).remarks == [
        "1 test clips have the embedding of a training clip (test0002): the same sound? `atr leaks` tells more",
        "1 test clips are of recordings that training clips are of (test0000) `atr leaks` tells more",
    ]


def test_labels_that_training_never_saw_are_named() -> None:
    train, test = train_and_test()
    test.clips.labels[7] = ["siren"]
    with pytest.raises(DataError, match=r"1 clips of test \(fold1\) stand on no training clip: 'siren'; .* 'a', 'b'"):
        of(train, test)
    audio, number = blobs(30)
    folds = [f"fold{row // 10}" for row in range(30)]
    labels = names(number)
    labels[14] = ["siren"]
    with pytest.raises(DataError, match=r"1 clips of set \(fold1\) stand on no training clip: 'siren'"):
        over_folds(encoded(audio, labels, folds))


def test_sets_that_give_no_numbers() -> None:
    train, test = train_and_test()
    with pytest.raises(DataError, match=r"60 clips are in the training set and in the test set \(train0000 and 59"):
        of(train, train)
    with pytest.raises(DataError, match=r"no clip of test has a label \(40 clips\)"):
        of(train, encoded(test.audio.numpy(), [[]] * 40, name="test"))
    with pytest.raises(DataError, match=r"no clip of empty has a label \(0 clips\)"):
        of(train, encoded(np.zeros((0, 8)), [], name="empty"))
    with pytest.raises(UsageError, match=r"windows='mean', the test set of .* with 'first'"):
        of(train, EncodedSet(test.clips, test.audio, "first", []))
    with pytest.raises(UsageError, match="encode both with one model"):
        of(train, EncodedSet(test.clips, test.audio[:, :4], "mean", []))
    with pytest.raises(DataError, match="all training clips have the same label"):
        of(encoded(train.audio.numpy(), [["a"]] * 60, name="train"), encoded(test.audio.numpy(), [["a"]] * 40))
    test.audio[0, 0] = np.nan
    with pytest.raises(DataError, match=r"1 of 40 test clips are NaN"):
        of(train, test)


def test_folds_that_give_no_numbers() -> None:
    audio, number = blobs(30)
    with pytest.raises(DataError, match="all clips are in one fold, 'fold1'; name a folder for each fold"):
        over_folds(encoded(audio, names(number)))
    folds = [f"fold{row // 10}" for row in range(30)]
    labels = [[] if fold == "fold2" else label for label, fold in zip(names(number), folds, strict=True)]
    with pytest.raises(DataError, match="fold 'fold2' has no labelled clip: no numbers are given"):
        over_folds(encoded(audio, labels, folds))
    with pytest.raises(DataError, match="a fold is called 'all'"):
        over_folds(encoded(audio, names(number), ["all" if fold == "fold2" else fold for fold in folds]))


def test_two_clips_with_one_id_give_no_numbers(shards: Path) -> None:
    with pytest.raises(DataError, match="two clips have the id 'note00'"):
        read_set([shards, next(shards.glob("*.tar"))])


def test_a_real_model_and_real_shards(trained: Path, shards: Path) -> None:
    clips = read_set([shards])
    model = atr.load(trained)
    even, odd = (encode_set(model, clips.of(list(range(first, 16, 2))), progress=False) for first in (0, 1))
    result = of(even, odd)
    assert result.shown["labels"] == ["high_note", "low_note"] and result.protocol.clips == 8
    assert result.value("accuracy") >= 0.75
    assert even.clips.sources[:2] == ["source0", "source2"]

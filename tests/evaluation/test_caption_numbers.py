"""Captions and references -> numbers with intervals: the slow way on a resample, and what the controls say."""

import numpy as np
import pytest

from atr.errors import DataError
from atr.evaluation import bootstrap, ngrams
from atr.evaluation.caption_numbers import check_keywords, copies_row, dealt, label_rows, measure_captions, read_written
from atr.evaluation.captioning import score_captions
from tests.evaluation.made import result

THINGS = ["dog", "rain", "sea", "wind", "bell", "car"]
KEYWORDS = {thing: {thing} for thing in THINGS}


@pytest.fixture
def captions():
    """24 clips, ordered by id: predictions that are partly right, and two references of each."""
    rng = np.random.default_rng(3)
    predictions, references = {}, {}
    for clip in range(24):
        thing, verb = THINGS[clip % 6], ["sounds", "is heard", "goes on and on"][rng.integers(3)]
        said = thing if clip % 4 else "dog"
        predictions[f"clip{clip:02d}"] = f"a {said} {verb} far away"
        references[f"clip{clip:02d}"] = [f"a {thing} is heard far away", f"the loud {thing} goes on in the night"]
    return predictions, references


def test_the_values_are_those_of_score_captions(captions):
    predictions, references = captions
    rng = np.random.default_rng(0)
    clap = rng.random(24)
    found = measure_captions(predictions, references, clap)
    values = {one.metric: one.value for one in found.rows}
    metrics = score_captions(predictions, references, clap=clap)
    expected = {one.name: one.value for one in metrics if one.value is not None}
    assert {name: values[name] for name in expected} == expected
    assert values.keys() - expected.keys() == {"distinct", "cider_d_shuffled"}
    assert all(any(line.startswith(f"{one.name}: ") for line in found.remarks) for one in metrics if one.value is None)
    for one in found.rows:
        assert one.n == 24 and one.low <= one.value <= one.high, one.metric
    assert values["distinct"] == pytest.approx(len(set(predictions.values())) / 24, abs=1e-12)
    assert found.notes["vocabulary"].startswith("different words; the references have")


def test_a_resample_of_bleu_is_that_of_its_captions(captions):
    predictions, references = captions
    rows = {one.metric: one for one in measure_captions(predictions, references).rows}
    weights = next(iter(bootstrap.resamples(24)))
    words = [ngrams.tokenise(one) for one in predictions.values()]
    own = [[ngrams.tokenise(one) for one in many] for many in references.values()]
    for draw in (0, 7):
        clips = np.repeat(np.arange(24), weights[draw].astype(int))
        slow, each = ngrams.bleu([words[i] for i in clips], [own[i] for i in clips])
        got = [rows[f"bleu_{order}"].replicates[draw] for order in (1, 2, 3, 4)]
        np.testing.assert_allclose(got, slow, atol=1e-12)
        assert abs(got[3] - each[:, 3].mean()) > 1e-3  # a control: the mean of the clips' scores is another number


def test_intervals_of_meteor_lie_around_the_sets_score(captions, fake_java):
    predictions, references = captions  # the set's score is that of the clips' mean plus 10 (conftest)
    row = next(one for one in measure_captions(predictions, references).rows if one.metric == "meteor")
    assert row.value > 10 and row.low < row.value < row.high
    assert row.replicates.mean() == pytest.approx(row.value, abs=0.02)


def test_captions_are_dealt_to_other_clips():
    for count in (2, 3, 10, 81):
        other = dealt(count)
        assert sorted(other) == list(range(count)) and all(a != b for a, b in enumerate(other))
        assert other == dealt(count)


def test_shuffled_scores_are_those_of_the_dealt_captions(captions):
    predictions, references = captions
    found = {one.metric: one.value for one in measure_captions(predictions, references).rows}
    ids, given = list(predictions), list(predictions.values())
    shuffled = {clip: given[other] for clip, other in zip(ids, dealt(24), strict=True)}
    by_hand = {one.name: one.value for one in score_captions(shuffled, references)}
    assert found["cider_d_shuffled"] == pytest.approx(by_hand["cider_d"], abs=1e-12)
    assert found["cider_d_shuffled"] < 0.8 * found["cider_d"]
    same = dict.fromkeys(predictions, "a dog is heard far away")  # it does not listen
    deaf = {one.metric: one.value for one in measure_captions(same, references).rows}
    assert deaf["cider_d"] == pytest.approx(deaf["cider_d_shuffled"], abs=1e-12)
    assert deaf["distinct"] == pytest.approx(1 / 24)


def test_one_clip_has_no_cider():
    found = measure_captions({"a": "a dog"}, {"a": ["a dog barks"]})
    names = {one.metric for one in found.rows}
    assert "bleu_1" in names and not {"cider_d", "cider_d_shuffled"} & names
    assert any(line.startswith("cider_d: in a set of one clip") for line in found.remarks)


def test_copies_have_the_same_words():
    known = {("a", "dog", "barks")}
    row = copies_row(["A dog barks.", "a dog barks", "a dog barks loudly", "dog"], known)
    assert (row.metric, row.value) == ("copies", 0.5)


def test_labels_that_captions_name():
    captions = ["a dog", "rain", "a dog in the rain", "rain"]
    rows = label_rows(captions, [["dog"], ["rain"], ["dog"], ["dog", "rain"]], KEYWORDS)
    assert [(one.metric, one.n) for one in rows] == [("names_label", 3), ("names_label_shuffled", 3)]
    assert rows[0].value == pytest.approx(2 / 3) and rows[1].value < rows[0].value
    assert label_rows(captions[:1], [["dog", "rain"]], KEYWORDS) == []
    assert len(label_rows(captions[:1], [["dog"]], KEYWORDS)) == 1


def test_labels_without_keywords_are_named():
    with pytest.raises(DataError, match=r"1 labels of the clips have no keywords \(owl\); the file has bell, car"):
        check_keywords({"owl", "dog"}, KEYWORDS)


@pytest.mark.parametrize(
    "captions",
    [
        [1], "x", [{"id": "a"}], [{"id": "a", "caption": 3, "references": []}],
        [{"id": "a", "caption": "b", "references": "c"}],
    ],
)  # fmt: skip
def test_damaged_captions_of_a_result_are_refused(captions):
    one = result(np.ones(3), "captioning")
    one.shown["captions"] = captions
    with pytest.raises(DataError, match=r"the captions of captioning on notes are damaged"):
        read_written(one)

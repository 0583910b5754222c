"""Captions that name a sound."""

import pytest
import yaml

from atr.errors import DataError
from atr.evaluation.keywords import named, read_keywords, share_named
from tests.conftest import ROOT

KEYWORDS = ROOT / "data" / "keywords.yaml"


def test_each_caption_of_the_demo_corpus_names_its_class_and_no_other():
    keywords = read_keywords(KEYWORDS)
    captions = yaml.safe_load((ROOT / "data" / "captions.yaml").read_text())
    assert keywords.keys() == captions.keys()
    for label, texts in captions.items():
        assert [named(text, keywords) for text in texts] == [{label}] * len(texts)


def test_whole_words_of_one_class_count():
    keywords = {"saw": {"saw"}, "rain": {"rain"}}
    captions = ["A saw, far away.", "He saw RAIN", "rainbows and sawdust", "saw"]
    assert share_named(captions, ["saw", "saw", "saw", "rain"], keywords) == 0.25


@pytest.mark.parametrize("text", ["rain: wet", "- rain", "rain: []", "rain: [Rain]", "rain: [a b]", "rain: [1", ""])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "k.yaml").write_text(text)
    with pytest.raises(DataError, match=r"(?s)k\.yaml.*label: \[word|k\.yaml: rain has"):
        read_keywords(tmp_path / "k.yaml")

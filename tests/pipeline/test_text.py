"""Word masking and the captions of a shard's json."""

import numpy as np
import pytest

from atr.errors import DataError
from atr.pipeline.text import WordMask, captions_of, label_caption


def test_a_quarter_of_the_words_is_hidden():
    caption = " ".join(["word"] * 1000)
    rng = np.random.default_rng(0)
    hidden = sum(WordMask(0.25)(caption, "<mask>", rng).split().count("<mask>") for _ in range(100))
    assert hidden / 1e5 == pytest.approx(0.25, abs=0.005)


def test_one_word_always_stays_and_it_is_a_random_one():
    rng = np.random.default_rng(0)
    kept = [WordMask(1.0)("rain falls steadily", "<mask>", rng).replace("<mask>", "").strip() for _ in range(300)]
    assert {word: kept.count(word) > 60 for word in set(kept)} == {"rain": True, "falls": True, "steadily": True}
    assert WordMask(1.0)("rain", "<mask>", rng) == "rain"


def test_the_literal_variant_may_hide_everything():
    assert WordMask(1.0, "literal")("rain  falls", "<mask>", np.random.default_rng(0)) == "[MASK] [MASK]"


def test_the_same_seed_hides_the_same_words():
    caption = "a dog barks at the door of a house"
    masked = [WordMask(0.5)(caption, "<mask>", np.random.default_rng(3)) for _ in range(2)]
    assert masked[0] == masked[1] != caption


@pytest.mark.parametrize("bad", [{"probability": 1.5}, {"probability": 0.5, "variant": "token"}])
def test_wrong_settings_are_refused(bad):
    with pytest.raises(ValueError, match="allowed"):
        WordMask(**bad)


def test_captions_are_a_list_or_one_string_and_blank_ones_do_not_count():
    assert captions_of({"text": ["a ", "", "  ", "b"]}) == ["a", "b"]
    assert captions_of({"text": "one"}) == ["one"]
    assert captions_of({}) == []
    with pytest.raises(DataError, match="of type dict"):
        captions_of({"text": {"a": 1}})
    with pytest.raises(DataError, match="of type list"):
        captions_of({"text": [1]})


def test_captions_of_labels():
    assert label_caption(["dog_bark"], "The sound of {labels}") == "The sound of dog bark"
    assert label_caption(["a", "b_c"], "{labels}!") == "a and b c!"
    assert label_caption(["a", "b", "c"], "The sounds of {labels}") == "The sounds of a, b and c"

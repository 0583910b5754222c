"""The ledger's limit and its lines."""

import pytest

from atr.errors import DataError
from atr.pipeline.datamodule import Collate
from atr.pipeline.ledger import Ledger, list_bad
from atr.types import BadSample, Sample
from tests.conftest import tone


def batch(tokenizer, bad=(), notes=()):
    sample = Sample("clip1", tone(300), ["a"], ["a"], [], "", notes=list(notes))
    return Collate(tokenizer)([(sample, list(bad))])


def test_the_same_bad_clip_counts_once_and_the_limit_is_a_share(tokenizer):
    ledger = Ledger(clips=100, limit=0.01)
    for _ in range(3):
        ledger.add(batch(tokenizer, [BadSample("a", "empty")]))
    with pytest.raises(
        DataError, match=r"2 of 100 clips cannot be used, more than bad_samples=0\.01:\n  a: empty\n  b: NaN"
    ):
        ledger.add(batch(tokenizer, [BadSample("b", "NaN")]))


def test_remarks_are_gathered_by_kind(tokenizer):
    ledger = Ledger(clips=10, limit=0.5)
    ledger.add(batch(tokenizer, [BadSample("a", "empty")], ["is silent"]))
    assert ledger.lines() == ["1 clips: is silent (e.g. clip1)", "1 of 10 clips were skipped:\n  a: empty"]
    ledger.clipped = 160
    assert ledger.lines()[1] == "160 waveform samples (1.00%) lay beyond full scale and were clipped"
    assert Ledger(10, 0.5).lines() == []


def test_long_lists_are_cut():
    assert list_bad([BadSample(str(i), "x") for i in range(25)]).endswith("… and 5 more")

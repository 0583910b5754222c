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


def test_what_other_devices_met_is_taken_in_and_judged_together(tokenizer):
    ledgers = [Ledger(clips=100, limit=0.015) for _ in range(2)]
    for name, ledger in zip("ab", ledgers, strict=True):
        ledger.add(batch(tokenizer, [BadSample(name, "empty")], [f"is {name}"]))
    for _ in range(2):  # after every epoch
        ledgers[0].merge(ledgers[1:])
    assert set(ledgers[0].bad) == {"a", "b"} and len(ledgers[0].lines()) == 3
    with pytest.raises(DataError, match="2 of 100 clips cannot be used"):
        ledgers[0].check()


def test_a_damaged_place_counts_for_the_clips_it_held(tokenizer):
    ledger = Ledger(100, 0.25, [BadSample("x.tar:(end)", "cut off", 20)])
    ledger.add(batch(tokenizer))
    assert ledger.lines() == ["20 of 100 clips were skipped:\n  x.tar:(end): cut off (about 20 clips)"]
    with pytest.raises(DataError, match="26 of 100 clips"):
        ledger.add(batch(tokenizer, [BadSample(str(n), "") for n in range(6)]))


def test_remarks_that_differ_in_numbers_only_are_one_line(tokenizer):
    ledger = Ledger(10, 0.5)
    for seconds in (1.5, 2.25):
        ledger.add(batch(tokenizer, notes=[f"ends after {seconds} s of the 10 s its header promises"]))
    assert ledger.lines() == ["1 clips: ends after 1.5 s of the 10 s its header promises (e.g. clip1)"]

"""Pair mixing: levels, joins and captions against what they should be."""

import numpy as np
import pytest

from atr.errors import UsageError
from atr.pipeline.pair import PairMix, after, joined, together
from atr.types import Sample
from tests.conftest import tone


def sample(hertz, caption, label, level=1.0):
    return Sample(f"{label}.tar:x", level * tone(hertz, 1.0), [caption], [], [label], label)


def rms(wave):
    return float(np.sqrt(np.mean(wave.astype(np.float64) ** 2)))


@pytest.mark.parametrize("level", [-10.0, 0.0, 6.0])
def test_two_at_once_lie_at_the_level_asked_for(level):
    first, second = tone(300), 0.05 * tone(700)
    mixed = together(first, second, level)
    basis = np.stack([first, second], axis=1).astype(np.float64)
    (a, b), *_ = np.linalg.lstsq(basis, mixed.astype(np.float64), rcond=None)
    assert 20 * np.log10(b * rms(second) / (a * rms(first))) == pytest.approx(level, abs=1e-3)
    assert np.abs(mixed).max() <= 1.0


def test_silence_is_added_as_it_is_and_stereo_stays_stereo():
    np.testing.assert_array_equal(together(tone(300), np.zeros(16_000, np.float32), 5.0), tone(300))
    stereo = tone(300, channels=2).T
    assert together(stereo, stereo, 0.0).shape == after(stereo, stereo, 8000, 160).shape == (2, 16_000)


def test_one_after_the_other_joins_without_a_click():
    first, second = np.full(1000, 0.5, np.float32), np.full(1000, -0.5, np.float32)
    result = after(first, second, 400, 100)
    assert (result[:300] == 0.5).all() and (result[400:] == -0.5).all() and len(result) == 1000
    assert np.abs(np.diff(result)).max() < 0.02
    ramp = np.arange(1000, dtype=np.float32)
    np.testing.assert_array_equal(after(ramp, ramp, 400, 100)[400:], ramp[100:700])  # the second begins with the fade


@pytest.mark.parametrize(
    ("first", "second", "word", "expected"),
    [
        ("A dog barks.", "Rain falls.", "and", "A dog barks and rain falls."),
        ("A dog barks", "TV plays", "followed by", "A dog barks followed by TV plays"),
        ("wind", "I hear rain", "and", "wind and I hear rain"),
        ("wind", "A bell", "and", "wind and a bell"),
        ("wind", "", "and", "wind and "),
    ],
)
def test_captions_become_one_sentence(first, second, word, expected):
    assert joined(first, second, word) == expected


@pytest.mark.parametrize(("sequence", "word"), [(0.0, "and"), (1.0, "followed by")])
def test_a_mixture_has_both_captions_and_labels(sequence, word):
    mixed = PairMix(1.0, sequence=sequence)(
        sample(300, "A low tone.", "low"), sample(900, "A high tone.", "high"), 16_000, np.random.default_rng(0)
    )
    assert mixed.captions == [f"A low tone {word} a high tone."] and mixed.labels == ["high", "low"]
    assert mixed.key == "low.tar:x" and mixed.waveform.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(mixed.waveform))
    assert spectrum[300] > 100 and spectrum[900] > 100


def test_the_level_is_drawn_from_both_sides():
    rng = np.random.default_rng(0)
    mix = PairMix(1.0, level_db=10.0, sequence=0.0)
    louder = 0
    for _ in range(50):
        spectrum = np.abs(np.fft.rfft(mix(sample(300, "a", "a"), sample(900, "b", "b"), 16_000, rng).waveform))
        louder += spectrum[900] > spectrum[300]
    assert 10 < louder < 40


@pytest.mark.parametrize(
    ("arguments", "name"), [((1.5,), "probability"), ((0.5, -1.0), "level_db"), ((0.5, 1.0, 2.0), "sequence")]
)
def test_values_out_of_range_are_refused(arguments, name):
    with pytest.raises(UsageError, match=f"augment.mix.{name} is"):
        PairMix(*arguments)

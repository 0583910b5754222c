"""Fingerprints of generated sounds: copies are recognised, others are not, silence never is."""

import io

import numpy as np
import pytest
import soundfile
import soxr

from atr.datasets import fingerprint
from atr.datasets.fingerprint import HOP, RATE, FingerprintIndex, can_be_matched, sound_words, words
from atr.pipeline.decode import open_sound

SECONDS = 6.0


def bursts(seed, seconds=SECONDS, rate=44_100):
    """Chirps of random pitch with five harmonics and bursts of noise, one after the other."""
    rng = np.random.default_rng(seed)
    wave = 0.001 * rng.standard_normal(round(seconds * rate))
    at = 0
    while at < len(wave):
        length = min(len(wave) - at, int(rng.integers(rate // 8, rate // 2)))
        time = np.arange(length) / rate
        pitch = rng.uniform(150, 900) * time + rng.uniform(-300, 300) * time**2
        sweep = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 6))
        loud = np.hanning(length) * rng.uniform(0.05, 0.25)
        wave[at : at + length] += loud * (sweep if rng.random() < 0.6 else rng.standard_normal(length))
        at += length
    return wave.astype(np.float32)


def as_file(wave, rate, kind, source_rate=44_100):
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(wave, source_rate, rate), rate, format=kind)
    return file.getvalue()


def of(content, start=None, end=None):
    with open_sound(content) as sound:
        return sound_words(sound, start, end)


@pytest.fixture(scope="module")
def index():
    """Five sounds as ogg files at 22.05 kHz."""
    return FingerprintIndex([of(as_file(bursts(seed), 22_050, "OGG")) for seed in range(5)])


def test_a_word_for_each_hop_and_the_same_ones_each_time():
    content = as_file(bursts(0), 48_000, "FLAC")
    found = of(content)
    assert found.dtype == np.uint32
    assert len(found) == (round(SECONDS * RATE) - 4096) // HOP
    assert (of(content) == found).all() and can_be_matched(found)


def test_another_codec_and_rate_is_recognised(index):
    matches = index.search([of(as_file(bursts(seed), 48_000, "FLAC")) for seed in range(5)])
    assert [(match.query, match.clip) for match in matches] == [(n, n) for n in range(5)]
    assert max(match.error for match in matches) < 0.15 and min(match.score for match in matches) > 12


@pytest.mark.parametrize("kind", ["MP3", "FLAC"])
def test_a_crop_at_half_the_level_is_recognised(index, kind):
    crop = 0.5 * bursts(3)[70_001 : 70_001 + 3 * 44_100]
    (match,) = index.search([of(as_file(crop, 44_100, kind))])
    assert match.clip == 3 and 2 < match.seconds < 3


def test_a_clip_within_a_longer_sound_is_recognised(index):
    longer = np.concatenate([bursts(50, 8.3), bursts(2), bursts(51, 5.1)])
    assert [match.clip for match in index.search([of(as_file(longer, 32_000, "OGG"))])] == [2]


def test_other_sounds_do_not_match(index):
    assert index.search([words(soxr.resample(bursts(seed), 44_100, RATE)) for seed in range(100, 160)]) == []


def test_a_tone_cannot_be_matched():
    time = np.arange(6 * 44_100) / 44_100
    tones = [0.2 * np.sin(2 * np.pi * 440 * time), 0.25 * np.sin(2 * np.pi * 440 * time + 1)]
    for kind in ("FLAC", "OGG", "MP3"):
        one, other = (of(as_file(tone.astype(np.float32), 44_100, kind)) for tone in tones)
        assert FingerprintIndex([one]).search([other]) == []
        assert not can_be_matched(one) and not can_be_matched(other)


def test_silence_clicks_and_short_sounds_never_match():
    faint = (1e-4 * np.random.default_rng(0).standard_normal(6 * RATE)).astype(np.float32)
    click = np.zeros(6 * RATE, np.float32)
    click[30_000] = 1
    for wave in (np.zeros(6 * RATE, np.float32), faint, click, bursts(0, 0.5, RATE), np.zeros(0, np.float32)):
        found = words(wave)
        assert not can_be_matched(found)
        assert FingerprintIndex([found]).search([found]) == []
    assert (words(faint) == 0).all() and len(words(np.zeros(4096 + HOP - 1, np.float32))) == 0


def test_one_wrong_bit_in_each_word_is_looked_up():
    found = words(soxr.resample(bursts(7), 44_100, RATE))
    wrong = np.where(found, found ^ (np.uint32(1) << (np.arange(len(found), dtype=np.uint32) % 32)), 0)
    (match,) = FingerprintIndex([found]).search([wrong.astype(np.uint32)])
    assert match.error == pytest.approx(1 / 32)


def test_steady_noise_is_recognised_by_its_course():
    """Two noises of one kind differ; the same recording of one does not."""
    one, other = (0.1 * np.random.default_rng(n).standard_normal(6 * 44_100).astype(np.float32) for n in (0, 1))
    index = FingerprintIndex([of(as_file(one, 22_050, "OGG")), of(as_file(other, 22_050, "OGG"))])
    assert [match.clip for match in index.search([of(as_file(one, 48_000, "FLAC"))])] == [0]


def test_a_stretch_of_a_file_is_that_stretch():
    whole = bursts(0, 66.0)
    content, stretch = (as_file(wave, 16_000, "FLAC") for wave in (whole, whole[58 * 44_100 : 64 * 44_100]))
    cut = of(content, 58.0, 64.0)
    (match,) = FingerprintIndex([of(stretch)]).search([cut])
    assert match.error < 0.02 and len(cut) == len(of(stretch))
    assert len(of(content)) == (66 * RATE - 4096) // HOP  # read in two blocks


def test_an_empty_index_and_no_query():
    assert FingerprintIndex([]).search([words(bursts(0))]) == []
    assert FingerprintIndex([words(bursts(0))]).search([]) == []


def test_queries_are_looked_up_some_at_a_time(index, monkeypatch):
    queries = [words for words in index.clips for _ in range(3)]
    whole = index.search(queries)
    monkeypatch.setattr(fingerprint, "TOGETHER", 2)
    assert len(whole) >= len(queries) and index.search(queries) == whole


def test_a_long_sound_is_heard_block_by_block_and_gives_the_same_words(monkeypatch):
    content = as_file(bursts(3, 9.0), 44_100, "FLAC")
    whole = of(content)
    monkeypatch.setattr(fingerprint, "BLOCK", 1)
    longest, plain = [], fingerprint._energies
    monkeypatch.setattr(fingerprint, "_energies", lambda waveform: longest.append(len(waveform)) or plain(waveform))
    assert len(whole) > 300 and (of(content) == whole).all()
    assert len(longest) >= 9 and max(longest) < 2 * RATE

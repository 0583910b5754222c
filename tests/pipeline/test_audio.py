"""Decoding: lengths, rates, channels, formats, and each kind of bad file."""

import io

import numpy as np
import pytest
import soundfile
import soxr

from atr.errors import DataError
from atr.pipeline.audio import decode_clip, prepare_waveform, repeat_pad, to_int16
from tests.conftest import SHARED, tone


def encoded(samples, rate=16_000, kind="WAV", subtype=None):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype)
    return stream.getvalue()


@pytest.mark.parametrize("seconds", [0.05, 0.99, 1.0, 1.01, 3.0])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_length_rate_and_channel_count_gives_the_models_length(seconds, rate, channels):
    waveform, _ = decode_clip(encoded(tone(440, seconds, rate, channels), rate), 1.0, 16_000)
    assert waveform.shape == (16_000,) and waveform.dtype == np.float32
    assert np.abs(waveform).max() > 0.1


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_24"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
)
def test_every_format_sounds_the_same(kind, subtype):
    wave = tone(440, 1.0, 48_000)
    waveform, notes = decode_clip(encoded(wave, 48_000, kind, subtype), 1.0, 48_000)
    assert notes == []
    a, b = np.abs(np.fft.rfft(waveform)), np.abs(np.fft.rfft(wave))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999


def test_a_random_crop_is_a_slice_of_the_file():
    wave = np.linspace(-0.9, 0.9, 64_000, dtype=np.float32)
    file = encoded(wave, 16_000, subtype="FLOAT")
    starts = set()
    for seed in range(20):
        crop, _ = decode_clip(file, 1.0, 16_000, np.random.default_rng(seed))
        start = int(np.argmin(np.abs(wave - crop[0])))
        np.testing.assert_array_equal(crop, wave[start : start + 16_000])
        starts.add(start)
    assert len(starts) == 20 and max(starts) > 40_000
    beginning, _ = decode_clip(file, 1.0, 16_000)
    np.testing.assert_array_equal(beginning, wave[:16_000])


def test_stereo_is_mixed_and_rate_changed_as_soxr_does():
    left, right = tone(300, 1.0, 8_000), tone(500, 1.0, 8_000)
    waveform, notes = decode_clip(encoded(np.stack([left, right], 1), 8_000, subtype="FLOAT"), 1.0, 16_000)
    np.testing.assert_allclose(waveform, soxr.resample((left + right) / 2, 8_000, 16_000), atol=1e-6)
    assert notes == ["2 channels mixed to mono", "8000 Hz resampled to 16000 Hz: it holds nothing above 4000 Hz"]


def test_repeat_pad_is_laions_rule():
    assert repeat_pad(np.array([1, 2, 3]), 8).tolist() == [1, 2, 3, 1, 2, 3, 0, 0]
    assert repeat_pad(np.array([1, 2, 3]), 2).tolist() == [1, 2]
    assert repeat_pad(np.array([1, 2]), 3).tolist() == [1, 2, 0]
    assert repeat_pad(np.array([1, 2]), 4).tolist() == [1, 2, 1, 2]


def test_quantisation_counts_what_it_clips():
    quantised, clipped = to_int16(np.array([0.0, 1.0, -1.0, 1.5, -2.0, 0.99999], np.float32))
    assert quantised.tolist() == [0, 32767, -32767, 32767, -32767, 32766]
    assert clipped == 2


def test_bad_files_are_refused_each_with_its_reason():
    with pytest.raises(DataError, match="holds no samples"):
        decode_clip(encoded(np.zeros(0)), 1.0, 16_000)
    with pytest.raises(DataError, match="NaN or infinite"):
        decode_clip(encoded(np.array([0, np.nan, 0], np.float32), subtype="FLOAT"), 1.0, 16_000)
    with pytest.raises(DataError, match=r"cannot be decoded .* convert it to wav"):
        decode_clip(b"not a sound", 1.0, 16_000)
    with pytest.raises(DataError, match="holds no samples"):
        prepare_waveform(np.zeros((0, 2), np.float32), 16_000, 1.0, 16_000)


def test_silence_is_taken_and_remarked():
    waveform, notes = decode_clip(encoded(np.zeros(16_000)), 1.0, 16_000)
    assert not waveform.any() and "is silent" in notes[0]


@pytest.mark.skipif(not (SHARED / "data" / "odd_audio").is_dir(), reason="../shared is not here")
@pytest.mark.parametrize(
    "name",
    ["ms_adpcm.wav", "mono_int24.wav", "stereo_24bit.WAV", "digital_silence.wav", "bus.opus", "perfect-alley1.ogg"],
)
def test_odd_files_decode(name):
    waveform, _ = decode_clip(str(SHARED / "data" / "odd_audio" / name), 2.0, 48_000)
    assert waveform.shape == (96_000,) and np.isfinite(waveform).all()

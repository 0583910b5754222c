"""The crop: equal to the slice of the whole resampled clip, of the right length, and what is remarked about it."""

import io
import math
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr

from atr.errors import DataError
from atr.pipeline import audio
from atr.pipeline.audio import decode_clip, prepare_waveform, repeat_pad, to_int16
from tests.conftest import SHARED, tone

RATES = [4_000, 8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000]
FORMATS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
UP_AND_DOWN = [(rate, 48_000) for rate in RATES[1:] if rate != 48_000]
UP_AND_DOWN += [(rate, target) for rate in (44_100, 48_000) for target in (16_000, 32_000)]


class At:
    """Stands in for a generator: chooses the same part, 0 to 1, of every range, and notes the ranges."""

    def __init__(self, part):
        self.part, self.bounds = part, []

    def integers(self, bound):
        self.bounds.append(bound)
        return math.floor(self.part * (bound - 1))


def encoded(samples, rate=16_000, kind="WAV", subtype=None, level=None):
    stream = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(stream, "w", rate, channels, subtype, None, kind, compression_level=level) as sound:
        for start in range(0, len(samples), 65_536):  # libsndfile crashes on minutes of Vorbis at once
            sound.write(samples[start : start + 65_536])
    return stream.getvalue()


def noise(seconds, rate, channels=1):
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (round(seconds * rate), channels)).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


def whole_resampled(samples, rate, target):
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
    return soxr.resample(mono, rate, target)


@pytest.mark.parametrize(("rate", "target"), UP_AND_DOWN)
@pytest.mark.parametrize("part", [0.0, 0.4, 1.0])
def test_a_crop_equals_the_slice_of_the_whole_resampled_clip(rate, target, part):
    samples = noise(3.0, rate, 1 if part else 2)
    whole = whole_resampled(samples, rate, target)
    crop, _ = decode_clip(encoded(samples, rate, subtype="FLOAT"), 1.0, target, rng := At(part))
    period = target // math.gcd(rate, target)
    assert rng.bounds == [(len(whole) - target) // period + 1]
    start = math.floor(part * (rng.bounds[0] - 1)) * period
    np.testing.assert_allclose(crop, whole[start : start + target], rtol=0, atol=5e-6)  # measured: below 1e-6
    assert part < 1.0 or start + target > len(whole) - period


@pytest.mark.parametrize(("rate", "target"), UP_AND_DOWN)
def test_the_beginning_equals_the_slice_of_the_whole_resampled_clip(rate, target):
    samples = noise(3.0, rate)
    whole = whole_resampled(samples, rate, target)[:target]
    decoded, _ = decode_clip(encoded(samples, rate, subtype="FLOAT"), 1.0, target)
    prepared, _ = prepare_waveform(samples, rate, 1.0, target)
    np.testing.assert_allclose(decoded, whole, rtol=0, atol=5e-6)
    np.testing.assert_array_equal(decoded, prepared)


@pytest.mark.parametrize(("rate", "target"), [(44_100, 48_000), (48_000, 32_000), (8_000, 48_000)])
def test_without_a_margin_a_crop_would_differ(rate, target, monkeypatch):
    samples = noise(3.0, rate)
    whole = whole_resampled(samples, rate, target)
    monkeypatch.setattr(audio, "MARGIN", 0)
    crop, _ = decode_clip(encoded(samples, rate, subtype="FLOAT"), 1.0, target, rng := At(0.5))
    start = math.floor(0.5 * (rng.bounds[0] - 1)) * (target // math.gcd(rate, target))
    assert np.abs(crop - whole[start : start + target]).max() > 1e-4


@pytest.mark.parametrize(("rate", "target", "period"), [(44_100, 48_000, 147), (48_000, 32_000, 3)])
def test_a_crop_from_between_the_common_places_would_differ(rate, target, period):
    samples = noise(3.0, rate)
    whole = whole_resampled(samples, rate, target)
    for frame, differs in ((100 * period, False), (100 * period + 1, True)):
        place = round(frame * target / rate)
        crop = soxr.resample(samples[frame:], rate, target)[1_000 : 1_000 + target]
        assert (np.abs(crop - whole[place + 1_000 : place + 1_000 + target]).max() > 1e-4) == differs


def test_equal_rates_draw_any_frame_once_and_copy_it():
    samples = np.linspace(-0.9, 0.9, 64_000, dtype=np.float32)
    file = encoded(samples, 16_000, subtype="FLOAT")
    for part in (0.0, 0.5, 1.0):
        crop, _ = decode_clip(file, 1.0, 16_000, rng := At(part))
        assert rng.bounds == [48_001]
        start = math.floor(part * 48_000)
        np.testing.assert_array_equal(crop, samples[start : start + 16_000])
    for seed in range(5):
        start = int(np.random.default_rng(seed).integers(64_000 - 16_000 + 1))
        crop, _ = decode_clip(file, 1.0, 16_000, np.random.default_rng(seed))
        np.testing.assert_array_equal(crop, samples[start : start + 16_000])
    np.testing.assert_array_equal(decode_clip(file, 1.0, 16_000)[0], samples[:16_000])
    assert decode_clip(file, 4.0, 16_000, rng := At(1.0))[0].shape == (64_000,) and rng.bounds == []


def test_a_short_clip_is_resampled_whole_and_repeated():
    samples = noise(0.3, 44_100)
    whole = soxr.resample(samples, 44_100, 48_000)
    for rng in (None, At(1.0)):
        waveform, _ = decode_clip(encoded(samples, 44_100, subtype="FLOAT"), 1.0, 48_000, rng)
        expected = np.concatenate([whole, whole, whole, np.zeros(48_000 - 3 * len(whole), np.float32)])
        np.testing.assert_allclose(waveform, expected, rtol=0, atol=1e-6)


def formats():
    """Every format with the rates and channel counts it can hold."""
    for kind, subtype in FORMATS:
        for rate in [8_000, 12_000, 16_000, 24_000, 48_000] if subtype == "OPUS" else RATES:
            for channels in (1, 2, 8):
                if kind != "MP3" or (8_000 <= rate <= 48_000 and channels <= 2):
                    yield kind, subtype, rate, channels


def assert_length(kind, subtype, rate, channels, duration, seconds, target=48_000):
    time = np.arange(round(duration * rate), dtype=np.float32) / rate
    wave = 0.5 * np.sin(2 * np.pi * 440 * (time % 1)).astype(np.float32)
    file = encoded(wave if channels == 1 else np.stack([wave] * channels, 1), rate, kind, subtype)
    for rng in (None, At(0.0), At(0.7), At(1.0)):
        waveform, _ = decode_clip(file, seconds, target, rng)
        assert waveform.shape == (round(seconds * target),) and waveform.dtype == np.float32
        assert np.isfinite(waveform).all()
        tail = waveform[-round(0.02 * target) :]
        whole_copies = duration < seconds and round(seconds / duration) * duration == seconds
        if duration >= seconds or whole_copies:  # sound up to the end, no padding
            assert np.abs(tail).max() > 0.1
    return waveform


@pytest.mark.parametrize(("kind", "subtype", "rate", "channels"), list(formats()))
def test_every_format_rate_and_channel_count_gives_the_models_length(kind, subtype, rate, channels):
    for duration in (0.05, 0.999, 1.0, 1.001, 1.5)[:: 2 if channels == 8 else 1]:  # encoding eight takes long
        assert_length(kind, subtype, rate, channels, duration, 1.0)


@pytest.mark.parametrize("duration", [0.05, 9.99, 10, 10.01, 300])
@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_clips_of_ten_seconds(kind, subtype, duration):
    if (subtype, duration) != ("OPUS", 300):  # takes 4 s; the slow test has it
        assert_length(kind, subtype, 8_000, 1, duration, 10.0, 16_000)


@pytest.mark.slow
@pytest.mark.parametrize("duration", [0.05, 9.99, 10, 10.01, 300])
@pytest.mark.parametrize(("kind", "subtype", "rate", "channels"), list(formats()))
def test_clips_of_ten_seconds_in_every_format(kind, subtype, rate, channels, duration):
    assert_length(kind, subtype, rate, channels, duration, 10.0)


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_channels_are_mixed_or_two_are_kept(rate):
    samples = noise(2.0, 16_000, 3)
    file = encoded(samples, 16_000, subtype="FLOAT")
    whole = samples if rate == 16_000 else soxr.resample(samples, 16_000, rate)
    mono, notes = decode_clip(file, 1.0, rate)
    np.testing.assert_allclose(mono, whole[:rate].mean(axis=1), rtol=0, atol=5e-6)
    assert notes[0] == "3 channels mixed to mono"
    both, notes = decode_clip(file, 1.0, rate, At(0.5), stereo=True)
    np.testing.assert_allclose(both, whole[rate // 2 : rate // 2 + rate, :2].T, rtol=0, atol=5e-6)
    assert notes[0] == "3 channels, the first two are used"
    assert both.shape == (2, rate) and both.dtype == np.float32
    two, notes = decode_clip(encoded(samples[:, 1:], 16_000, subtype="FLOAT"), 1.0, 16_000, stereo=True)
    np.testing.assert_array_equal(two, samples[:16_000, 1:].T)
    one, _ = decode_clip(encoded(samples[:, 1], 16_000, subtype="FLOAT"), 1.0, 16_000, stereo=True)
    np.testing.assert_array_equal(one, [samples[:16_000, 1]] * 2)
    assert notes == []


def test_a_low_rate_is_remarked():
    _, notes = decode_clip(encoded(tone(300, 1.0, 8_000, 2), 8_000), 1.0, 16_000)
    assert notes == ["2 channels mixed to mono", "8000 Hz resampled to 16000 Hz: it holds nothing above 4000 Hz"]


def test_only_the_crop_is_held_in_memory(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros((300 * 44_100, 2), np.int16), 44_100)
    tracemalloc.start()
    try:
        for rng in (None, At(0.9)):
            decode_clip(str(tmp_path / "long.wav"), 10.0, 48_000, rng)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * 480_000 * 4  # bytes; the whole clip is 30 times a mono crop, twice


def test_repeat_pad_is_laions_rule():
    assert repeat_pad(np.array([1, 2, 3]), 8).tolist() == [1, 2, 3, 1, 2, 3, 0, 0]
    assert repeat_pad(np.array([1, 2, 3]), 2).tolist() == [1, 2]
    assert repeat_pad(np.array([1, 2]), 3).tolist() == [1, 2, 0]
    assert repeat_pad(np.array([1, 2]), 4).tolist() == [1, 2, 1, 2]


def test_quantisation_counts_what_it_clips():
    quantised, clipped = to_int16(np.array([0.0, 1.0, -1.0, 1.5, -2.0, 0.99999], np.float32))
    assert quantised.tolist() == [0, 32767, -32767, 32767, -32767, 32766]
    assert clipped == 2


@pytest.mark.parametrize("peak", [0.3, 1.0, 1.7])
def test_quantisation_is_clamp_times_32767_truncated(peak):
    waveform = np.random.default_rng(0).uniform(-peak, peak, (2, 50_000)).astype(np.float32)
    quantised, clipped = to_int16(waveform)
    np.testing.assert_array_equal(quantised, (np.clip(waveform, -1, 1) * 32767).astype(np.int16))
    assert quantised.dtype == np.int16 and clipped == (np.abs(waveform) > 1).sum()
    assert (clipped > 0) == (peak > 1)


def test_samples_that_are_no_sound_are_refused():
    with pytest.raises(DataError, match="holds no samples"):
        decode_clip(encoded(np.zeros(0)), 1.0, 16_000)
    with pytest.raises(DataError, match="holds no samples"):
        prepare_waveform(np.zeros((0, 2), np.float32), 16_000, 1.0, 16_000)
    for value in (np.nan, np.inf, -np.inf):
        for rate in (16_000, 8_000):
            samples = np.full((100, 2), 0.1, np.float32)
            samples[50] = [value, -value]
            with pytest.raises(DataError, match="NaN or infinite"):
                decode_clip(encoded(samples, rate, subtype="FLOAT"), 1.0, 16_000)
            with pytest.raises(DataError, match="NaN or infinite"):
                decode_clip(encoded(samples, rate, subtype="FLOAT"), 1.0, 16_000, stereo=True)


def test_silence_is_taken_and_remarked():
    waveform, notes = decode_clip(encoded(np.zeros(16_000)), 1.0, 16_000)
    assert not waveform.any() and "is silent" in notes[0]
    waveform, notes = decode_clip(encoded(np.zeros(3), 192_000), 1.0, 16_000)  # resampled to no sample at all
    assert waveform.shape == (16_000,) and not waveform.any() and "is silent" in notes[0]


@pytest.mark.skipif(not (SHARED / "data" / "odd_audio").is_dir(), reason="../shared is not here")
@pytest.mark.parametrize(
    "name",
    ["ms_adpcm.wav", "mono_int24.wav", "stereo_24bit.WAV", "digital_silence.wav", "bus.opus", "perfect-alley1.ogg"],
)
def test_odd_files_decode(name):
    for rng in (None, np.random.default_rng(0)):
        waveform, _ = decode_clip(str(SHARED / "data" / "odd_audio" / name), 2.0, 48_000, rng)
        assert waveform.shape == (96_000,) and np.isfinite(waveform).all()

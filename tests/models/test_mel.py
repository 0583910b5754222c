"""The front end against `transformers`, `librosa`, and the trap of frequency_min=0."""

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

from atr.models.mel import LogMel
from atr.pipeline.audio import to_int16


def sounds() -> np.ndarray:
    """Noise, a chirp over noise, and noise with a silent half: `(3, 480 000)` at 48 kHz.

    A pure chirp would leave bins at 1e-9 of its power, where float32 itself is off by 0.2 dB.
    """
    rng = np.random.default_rng(0)
    time = np.arange(480_000) / 48_000
    noise = rng.normal(0, 0.1, len(time))
    chirp = 0.5 * np.sin(2 * np.pi * (50 * time + 700 * time**2))
    return np.stack([noise, chirp + 0.3 * noise, np.where(time < 5, noise, 0.0)]).astype(np.float32)


def reference(frequency_min: float) -> torch.Tensor:
    extractor = ClapFeatureExtractor(frequency_min=frequency_min, truncation="rand_trunc")
    features = extractor(list(sounds()), sampling_rate=48_000, return_tensors="pt")
    return features["input_features"].squeeze(1)  # (B, 1001, 64)


def test_equals_transformers_to_a_thousandth_of_a_db():
    log_mel = LogMel()(torch.from_numpy(sounds()))
    assert log_mel.shape == (3, 1001, 64)
    # measured: 1.7e-4 dB
    torch.testing.assert_close(log_mel, reference(50).float(), atol=1e-3, rtol=0)


def test_frequency_min_0_is_another_front_end():
    assert (LogMel()(torch.from_numpy(sounds())) - reference(0)).abs().max() > 1.0


def test_the_filterbank_is_librosas():
    import librosa

    expected = librosa.filters.mel(sr=48_000, n_fft=1024, n_mels=64, fmin=50, fmax=14_000)
    np.testing.assert_array_equal(LogMel().filterbank.numpy().T, expected)


def test_silence_is_the_floor_exactly():
    assert (LogMel()(torch.zeros(1, 480_000)) == -100.0).all()


def test_stays_float32_under_autocast():
    waveform = torch.from_numpy(sounds()[:1, :48_000])
    mel = LogMel(seconds=1.0)
    plain = mel(waveform)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = mel(waveform)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)


def test_int16_is_claps_quantisation():
    waveform = sounds()[:1, :48_000]
    quantised = torch.from_numpy(to_int16(waveform)[0])
    mel = LogMel(seconds=1.0)
    assert torch.equal(mel(quantised), mel(quantised.float() / 32767))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(mel(quantised), mel(quantised.float() / 32768), atol=1e-6, rtol=0)

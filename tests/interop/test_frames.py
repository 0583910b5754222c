"""Embeddings along time: evenly spaced, each of the sound around it, of all of the clip."""

import numpy as np
import pytest
import torch

from atr.errors import DataError
from atr.interop.frames import frame_embeddings, frame_seconds, frames_of_window, window_starts
from atr.pipeline.audio import repeat_pad, to_int16
from tests.conftest import tone


def noise(seconds, rate=16_000, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def slow(model, samples):
    """Window by window, frame by frame; the model's rate."""
    per_window, length, frames = frames_of_window(model), round(model.seconds * model.sample_rate), {}
    total = int(np.ceil(len(samples) / length * per_window - 1e-6))
    start = 0
    while True:
        piece = repeat_pad(samples[round(start * length / per_window) :][:length], length)
        with torch.no_grad():
            window = model.clap.audio.frames(model.clap.mel(torch.from_numpy(to_int16(piece)[0])[None]))[0]
        for i in range(per_window):
            frames.setdefault(start + i, window[i])  # the earlier window's stays
        if start + per_window >= total:
            return torch.stack([frames[i] for i in range(total)])
        start = min(start + per_window, total - per_window)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.01, 1.5, 2.0, 3.7])
def test_frames_are_those_of_windows_one_by_one(model, seconds):
    samples = noise(seconds)
    (frames,) = frame_embeddings(model, torch.from_numpy(samples[None]), 16_000)
    expected = slow(model, samples)
    assert frames.dtype == torch.float32 and frames.shape == expected.shape
    torch.testing.assert_close(frames, expected, atol=1e-5, rtol=0)
    other = slow(model, noise(seconds, seed=1))
    assert (frames - other).abs().max() > 1e-3  # the control: another sound has other frames


def test_many_windows_are_as_one_batch_after_another(model, monkeypatch):
    samples = torch.from_numpy(np.stack([noise(2.6), noise(2.6, seed=1)]))
    whole = frame_embeddings(model, samples, 16_000)
    monkeypatch.setattr("atr.interop.frames.BATCH", 2)
    torch.testing.assert_close(frame_embeddings(model, samples, 16_000), whole, atol=1e-5, rtol=0)


def test_every_sample_is_heard_by_the_frames_of_its_time(model):
    """A change of the sound at 2.6 s changes frames of the windows that hear it, and no other."""
    samples = noise(3.0)
    changed = samples.copy()
    changed[round(2.6 * 16_000) :][:400] = 0.9
    both = frame_embeddings(model, torch.from_numpy(np.stack([samples, changed])), 16_000)
    differs = (both[0] - both[1]).abs().amax(dim=1) > 1e-4
    assert differs[int(2.6 / frame_seconds(model))]
    assert not differs[: 2 * frames_of_window(model)].any()


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_they_are_the_frames_of_encode_audio_before_the_projection(model, seconds):
    """Of clips of whole windows; the last window of others begins elsewhere there, at any sample."""
    samples = noise(seconds)
    (frames,) = frame_embeddings(model, torch.from_numpy(samples[None]), 16_000)
    (known,) = model.encode_audio((samples, 16_000), frames=True)
    with torch.no_grad():
        projected = torch.nn.functional.normalize(model.clap.audio_projection(frames), dim=1)
    torch.testing.assert_close(projected, known.embeddings, atol=1e-5, rtol=0)
    expected = frame_seconds(model) * torch.arange(len(frames), dtype=torch.float64)
    torch.testing.assert_close(known.times, expected, atol=1e-9, rtol=0)


def test_windows_lie_end_to_end_and_the_last_one_ends_with_the_clip():
    for total in range(1, 40):
        starts = window_starts(total, 8)
        assert sorted({start + i for start in starts for i in range(8)})[:total] == list(range(total))
        assert starts[-1] == max(0, total - 8) and len(starts) == max(1, -(-total // 8))


def test_sound_at_another_rate_is_resampled(model):
    low = torch.from_numpy(tone(440, 1.5)[None])
    high = torch.from_numpy(tone(440, 1.5, rate=48_000)[None])
    expected = frame_embeddings(model, low, 16_000)
    found = frame_embeddings(model, high, 48_000)
    assert found.shape == expected.shape
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=2)
    assert cosine.min() > 0.99
    taken_for_low = frame_embeddings(model, high[:, : low.shape[1]], 16_000)  # the control: a third of the pitch
    assert torch.nn.functional.cosine_similarity(taken_for_low, expected, dim=2).min() < cosine.min() - 1e-3


def test_what_cannot_be_embedded_is_named(model):
    sound = torch.from_numpy(np.stack([tone(300), np.full(16_000, np.nan, np.float32)]))
    with pytest.raises(DataError, match="clip 1 of the batch holds NaN"):
        frame_embeddings(model, sound, 16_000)
    with pytest.raises(DataError, match="the clips of the batch hold no samples"):
        frame_embeddings(model, torch.zeros(1, 0), 16_000)
    per_window = frames_of_window(model)
    assert frame_embeddings(model, torch.zeros(0, 16_000), 16_000).shape == (0, per_window, model.clap.audio.dim)

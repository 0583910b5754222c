"""Clips of any length: how windows lie, what is made of them, and frames, against a slow obvious version."""

import io

import numpy as np
import pytest
import soundfile
import soxr
import torch

import atr
from atr import windows as module
from atr.errors import DataError, UsageError
from atr.inference import Source
from atr.pipeline.audio import decode_clip, repeat_pad, to_int16
from atr.windows import clip_windows, cut
from tests.conftest import tone

RATE = 16_000  # Hz; the tiny model's window is 1 s of it


@pytest.fixture(scope="module")
def model(trained):
    return atr.load(trained)


def varied(seconds, seed=0):
    """Sound that changes all the time: float32 `(seconds * RATE,)`."""
    rng = np.random.default_rng(seed)
    parts = [
        tone(hertz, 0.35) * level for hertz, level in zip(rng.uniform(100, 4000, 200), rng.random(200), strict=True)
    ]
    noise = rng.standard_normal(round(seconds * RATE)) * 0.01
    return (np.concatenate(parts)[: round(seconds * RATE)] + noise).astype(np.float32)


def slow_vectors(model, samples):
    """The windows of a clip one at a time, and their starts."""
    starts = list(range(0, max(1, len(samples) - RATE + 1), RATE))
    if starts[-1] + RATE < len(samples):
        starts.append(len(samples) - RATE)
    waveforms = [to_int16(repeat_pad(samples[start : start + RATE], RATE))[0] for start in starts]
    with torch.inference_mode():
        vectors = [model.clap.encode_audio(torch.from_numpy(one)[None])[0].double().numpy() for one in waveforms]
    return np.stack(vectors), starts, waveforms


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.5, 3.0, 3.25])
def test_each_way_of_covering_a_clip_against_its_formula(model, seconds):
    samples = varied(seconds)
    vectors, _, waveforms = slow_vectors(model, samples)
    loud = np.array([np.mean((one / 32767.0) ** 2) for one in waveforms])
    expected = {
        "mean": unit(vectors.mean(axis=0)),
        "energy": unit((loud[:, None] * vectors).sum(axis=0)),
        "max": unit(vectors.max(axis=0)),
        "first": vectors[0],
    }
    found = {name: model.encode_audio((samples, RATE), windows=name)[0].numpy() for name in expected}
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
        assert np.linalg.norm(found[name]) == pytest.approx(1, abs=1e-5)
        others = [np.abs(found[name] - expected[other]).max() for other in expected if other != name]
        assert seconds <= 1 or min(others) > 1e-4  # a control: the ways can be told apart


def test_every_sample_is_heard_and_windows_do_not_depend_on_pieces():
    samples = varied(3.7)
    whole = list(cut(iter([samples]), RATE, 160, RATE))
    pieces = list(cut(iter(np.split(samples, [1, 500, 16_000, 16_001, 40_000])), RATE, 160, RATE))
    assert [w[1:] for w in whole] == [w[1:] for w in pieces]
    assert all(np.array_equal(a.waveform, b.waveform) for a, b in zip(whole, pieces, strict=True))
    heard = np.zeros(len(samples), bool)
    for window in whole:
        start, end = round(window.start * RATE), round(window.end * RATE)
        assert np.array_equal(window.waveform, to_int16(samples[start:end])[0])
        heard[start:end] = True
    assert heard.all() and whole[-1].duration == len(samples) / RATE
    (short,) = cut(iter([samples[:5000]]), RATE, 160, RATE)
    assert np.array_equal(short.waveform, to_int16(repeat_pad(samples[:5000], RATE))[0])
    assert (short.start, short.end, short.duration) == (0, 5000 / RATE, 5000 / RATE)


@pytest.mark.parametrize(("count", "windows"), [(16_160, 1), (16_161, 2), (32_160, 2), (32_161, 3)])
def test_a_rest_of_one_hop_opens_no_window(model, count, windows):
    samples = varied(3)[:count]
    found = list(cut(iter([samples]), RATE, model.clap.mel.hop, RATE))
    assert len(found) == windows and found[-1].duration == count / RATE
    assert round(found[-1].end * RATE) == (count if windows == (count - 1) // RATE + 1 and count % 2 else count - 160)
    (heard,) = model.encode_sources([Source("a", lambda: (samples, RATE))], "mean")
    assert len(heard.vectors) == windows


@pytest.mark.parametrize(("rate", "suffix", "limit"), [(44_100, "wav", 0), (44_100, "ogg", 3), (22_050, "mp3", 3)])
def test_a_file_decoded_in_blocks_is_the_resampled_whole(tmp_path, monkeypatch, rate, suffix, limit):
    samples = np.stack([soxr.resample(varied(7.3, seed), RATE, rate) for seed in (0, 1)], axis=1)
    path = tmp_path / f"long.{suffix}"
    soundfile.write(path, samples, rate)
    decoded, _ = soundfile.read(path, dtype="float32")
    mono = soxr.resample(((decoded[:, 0] + decoded[:, 1]) / 2), rate, RATE)
    expected = [window.waveform for window in cut(iter([mono]), RATE, 0, RATE)]
    monkeypatch.setattr(module, "BLOCK", 50_000)
    notes = []
    found = list(clip_windows(str(path), "mean", 1.0, RATE, notes.append))
    assert notes == ["2 channels mixed to mono"]
    assert len(found) == len(expected) == 8
    differences = [np.abs(a.waveform.astype(int) - b).max() for a, b in zip(found, expected, strict=True)]
    assert max(differences) <= limit
    with path.open("rb") as file:
        again = list(clip_windows(file, "mean", 1.0, RATE, notes.append))
    assert all(np.array_equal(a.waveform, b.waveform) for a, b in zip(found, again, strict=True))


def test_first_and_short_clips_are_heard_as_training_hears_them(tmp_path):
    for seconds in (0.4, 1.0, 2.6):
        soundfile.write(tmp_path / "a.ogg", soxr.resample(varied(seconds), RATE, 22_050), 22_050)
        expected = to_int16(decode_clip(str(tmp_path / "a.ogg"), 1.0, RATE)[0])[0]
        for windows in ["first"] + (["mean", "max", "energy"] if seconds <= 1 else []):
            (window,) = clip_windows(str(tmp_path / "a.ogg"), windows, 1.0, RATE, lambda note: None)
            assert np.array_equal(window.waveform, expected)
            assert window.duration == pytest.approx(seconds, abs=1e-3)


def test_a_file_that_ends_early_is_heard_to_where_it_ends(tmp_path):
    content = io.BytesIO()
    soundfile.write(content, varied(3.0), RATE, format="FLAC")
    notes = []
    cut_off = io.BytesIO(content.getvalue()[: len(content.getvalue()) * 2 // 3])
    found = list(clip_windows(cut_off, "mean", 1.0, RATE, notes.append))
    assert 1.0 < found[-1].duration < 2.9 and found[-1].end - found[-1].start == pytest.approx(1.0)
    assert any("ends after" in note for note in notes)


def test_what_is_no_sound_is_refused():
    def windows(samples):
        return list(clip_windows((np.asarray(samples, np.float32), RATE), "mean", 1.0, RATE, lambda note: None))

    with pytest.raises(DataError, match="holds no samples"):
        windows([])
    with pytest.raises(DataError, match="NaN or infinite"):
        windows([0.0, np.nan])
    late = np.zeros(module.BLOCK + 10, np.float32)
    late[-1] = np.inf
    with pytest.raises(DataError, match="NaN or infinite"):
        windows(late)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0, 2.6])
def test_frames_against_one_window_at_a_time(model, seconds):
    samples = varied(seconds)
    (found,) = model.encode_audio((samples, RATE), frames=True)
    _, starts, waveforms = slow_vectors(model, samples)
    expected, times = [], []
    for start, waveform in zip(starts, waveforms, strict=True):
        with torch.inference_mode():
            frames = model.clap.audio.frames(model.clap.mel(torch.from_numpy(waveform)[None]))[0]
            frames = torch.nn.functional.normalize(model.clap.audio_projection(frames), dim=1).numpy()
        step = 1 / len(frames)
        for number, frame in enumerate(frames):
            time = start / RATE + number * step
            if time < seconds and (not times or time > times[-1] + 0.5 * step - 1e-9):
                expected.append(frame)
                times.append(time)
    assert found.times.tolist() == pytest.approx(times)
    np.testing.assert_allclose(found.embeddings.numpy(), np.stack(expected), atol=1e-5)
    assert np.abs(found.embeddings.numpy()[1:] - np.stack(expected)[:-1]).max() > 1e-3  # a control: one frame later
    assert np.diff(found.times.numpy()).max() < 1.51 * step and found.times[-1] + step >= seconds - step / 2


def test_fusion_takes_the_whole_clip_and_other_models_refuse_it(model, monkeypatch):
    with pytest.raises(UsageError, match=r"no feature fusion\); allowed: mean, energy, max, first$"):
        model.encode_audio((tone(300), RATE), windows="fusion")
    with pytest.raises(UsageError, match="windows is 'median'; allowed"):
        model.encode_audio((tone(300), RATE), windows="median")
    shapes = []

    def encode(waveform):
        shapes.append(tuple(waveform.shape))
        return torch.nn.functional.normalize(waveform[:, :32].float(), dim=1)

    monkeypatch.setattr(model.clap.audio, "fusion", True, raising=False)
    monkeypatch.setattr(model.clap, "encode_audio", encode)
    long, short = varied(2.5), varied(0.4)
    found = model.encode_audio([(long, RATE), (short, RATE)], windows="fusion")
    assert shapes == [(1, 40_000), (1, 16_000)]
    expected = torch.nn.functional.normalize(torch.from_numpy(to_int16(long)[0])[:32].float(), dim=0)
    torch.testing.assert_close(found[0], expected)
    with pytest.raises(UsageError, match="frames=True needs windows"):
        model.encode_audio((long, RATE), windows="fusion", frames=True)

"""Captions of sounds: which of several, of which window, and of odd sounds."""

import itertools

import numpy as np
import pytest
import soundfile
import torch

import atr
from atr import captions as module
from atr.captions import Caption, caption_sources, embeddings_of, nearest
from atr.errors import DataError, UsageError
from atr.inference import AudioTextModel, Source
from atr.models.decode import Decoding, generate
from atr.types import BadSample
from tests.captioners import WORDS, spread, tiny_captioner
from tests.conftest import tone
from tests.test_windows import RATE, varied

NUCLEUS = {"method": "nucleus", "top_p": 1.0}


@pytest.fixture(autouse=True)
def _one_thread(_same_threads):
    torch.set_num_threads(1)  # tensors are tiny


@pytest.fixture(scope="module", params=[False, True], ids=["pooled", "temporal"])
def model(trained, tmp_path_factory, request):
    """The trained tiny model with a random captioner (its window is 1 s)."""
    clap = atr.load(trained).clap
    captioner = tiny_captioner(tmp_path_factory.mktemp("words"), clap, temporal=request.param)
    heard = torch.from_numpy(np.stack([varied(1.0, seed) for seed in range(8)]))
    return AudioTextModel(clap, captioner=spread(captioner, heard))


@pytest.fixture
def sounds():
    """Six sounds of 0.1 to 3.4 s."""
    return [(varied(seconds, seed=number), RATE) for number, seconds in enumerate((0.1, 1.0, 2.6, 0.4, 3.4, 1.0))]


def windows_of(samples):
    """Start and end of each window, in samples."""
    starts = list(range(0, max(1, len(samples) - RATE + 1), RATE))
    if starts[-1] + RATE < len(samples):
        starts.append(len(samples) - RATE)
    return [(start, min(start + RATE, len(samples))) for start in starts]


@pytest.mark.parametrize("how", [{"method": "greedy"}, {}, {"candidates": 3}, NUCLEUS, NUCLEUS | {"candidates": 3}])
def test_a_sound_has_its_caption_whatever_stands_beside_it(model, sounds, how):
    alone = [model.caption(sound, **how) for sound in sounds]
    assert all(isinstance(one, str) and set(one.split()) <= set(WORDS) and one for one in alone)
    for batch in (1, 2, 16):
        assert model.caption(sounds, batch=batch, **how) == alone
        assert model.caption(sounds[::-1], batch=batch, **how) == alone[::-1]
    assert len(set(alone)) > 2  # a control
    timed = model.caption(sounds, times=True, batch=3, **how)
    assert timed == [model.caption(sound, times=True, **how) for sound in sounds]


def test_seeds_choose_and_the_same_sound_draws_the_same(model, sounds):
    draws = [model.caption(sounds, seed=seed, **NUCLEUS) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1] and len({tuple(one) for one in draws}) == 3
    twice = model.caption([sounds[0], sounds[0]], **NUCLEUS)
    assert twice[0] == twice[1]
    other = [(np.roll(samples, 1) * np.float32(0.9), rate) for samples, rate in sounds]  # nearly the same features
    assert model.caption(other, **NUCLEUS) != draws[0]


def test_each_window_has_the_caption_of_its_stretch_alone(model, sounds):
    for samples, rate in sounds:
        found = model.caption((samples, rate), times=True, method="greedy")
        expected = []
        for start, end in windows_of(samples):
            text = model.caption((samples[start:end], rate), method="greedy")
            if expected and expected[-1].text == text:
                expected[-1] = expected[-1]._replace(end=end / RATE)
            else:
                expected.append(Caption(start / RATE, end / RATE, text))
        assert found == expected
    long = sounds[4][0]
    samples = np.concatenate([long[:RATE], long[:RATE], long[RATE:]])
    first, second, *_ = model.caption((samples, RATE), times=True, method="greedy")
    assert (first.start, first.end) == (0.0, 2.0) and second.text != first.text  # neighbours with one caption


def test_the_caption_of_a_long_sound_is_that_of_the_mean_or_the_window_nearest_to_it(model, sounds):
    samples = sounds[4][0]
    captioner, mean = model.captioner, model.encode_audio((samples, RATE))
    if captioner.temporal:
        texts = [model.caption((samples[start:end], RATE), method="greedy") for start, end in windows_of(samples)]
        expected = texts[int((model.encode_text(texts) @ mean[0]).argmax())]
        assert len(set(texts)) > 1
    else:
        ((expected,),) = generate(captioner, mean, Decoding("greedy"))
    assert model.caption((samples, RATE), method="greedy") == expected


def test_features_give_the_contrastive_models_embedding(model):
    waveform = torch.from_numpy(np.stack([varied(1.0, seed) for seed in range(3)]))
    found = embeddings_of(model.captioner, model.captioner.features(waveform))
    torch.testing.assert_close(found, model.clap.encode_audio(waveform), atol=1e-6, rtol=0)
    assert (found - found.roll(1, 0)).abs().max() > 1e-4  # a control: another clip's


def test_of_several_candidates_the_one_nearest_to_the_sound_is_taken(model, sounds, monkeypatch):
    for how in ({"beams": 5}, NUCLEUS):
        seen = []

        def kept(captioner, *arguments, seen=seen):
            seen.extend(generate(captioner, *arguments))
            return seen[-len(arguments[0]) :]

        monkeypatch.setattr(module, "generate", kept)
        short = sounds[:2] + sounds[3:4] + sounds[5:]
        found = model.caption(short, candidates=5, **how)
        monkeypatch.undo()
        audio = model.encode_audio(short)
        for caption, candidates, clip in zip(found, seen, audio, strict=True):
            cosines = [float(model.encode_text(one) @ clip) for one in candidates]
            assert len(candidates) == 5 and caption == candidates[cosines.index(max(cosines))]
        assert found != [one[0] for one in seen]  # a control: the first candidates


def test_of_equal_candidates_the_first_is_taken(model):
    audio = model.encode_text(["rain", "a low hum"])
    assert nearest(model.clap, [["low", "rain", "rain"], ["a low hum"]], audio) == ["rain", "a low hum"]
    blind = torch.zeros_like(audio)
    assert nearest(model.clap, [["low", "rain"], ["sea", "dog", "wind"]], blind) == ["low", "sea"]


def test_silence_noise_and_sounds_of_any_length_have_captions(model, tmp_path):
    rng = np.random.default_rng(0)
    odd = {
        "silence": np.zeros(RATE), "noise": rng.uniform(-1, 1, 2 * RATE), "short": tone(440, 0.1),
        "sample": np.ones(1), "click": np.eye(1, RATE)[0],
    }  # fmt: skip
    for name, samples in odd.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE)
    files = [tmp_path / f"{name}.wav" for name in odd]
    with pytest.warns(UserWarning, match=r"silence\.wav: is silent"):
        for how in ({}, {"method": "greedy"}, NUCLEUS | {"candidates": 2}):
            found = model.caption(files, **how)
            assert len(found) == len(odd) and all(one.strip() for one in found)
            for name, captions in zip(odd, model.caption(files, times=True, **how), strict=True):
                assert captions[0].start == 0 and captions[-1].end == pytest.approx(len(odd[name]) / RATE)
                assert all(one.text.strip() for one in captions)


def test_ten_minutes_have_captions(model, tmp_path):
    samples = np.zeros(600 * RATE, np.float32)
    samples[: 300 * RATE] = np.random.default_rng(0).uniform(-0.5, 0.5, 300 * RATE)
    soundfile.write(tmp_path / "long.flac", samples, RATE)
    timed = model.caption(tmp_path / "long.flac", times=True, **NUCLEUS)
    assert len(timed) > 50 and all(one.text.strip() for one in timed)
    assert all(one.end == other.start for one, other in itertools.pairwise(timed))
    assert timed[0].start == 0 and timed[-1].end == 600 and timed[-1].start <= 300  # silence is one caption
    assert model.caption(tmp_path / "long.flac", method="greedy").strip()


def test_what_is_wrong_is_named(model, trained, sounds, tmp_path):
    with pytest.raises(UsageError, match=r"this is a contrastive checkpoint, .* captions need a captioning checkpoint"):
        atr.load(trained).caption(sounds[0])
    with pytest.raises(DataError, match=r"gone\.wav: no such file"):
        model.caption("gone.wav")
    with pytest.raises(UsageError, match=r"top_p=0\.5 has no meaning with method=beam"):
        model.caption(sounds[0], top_p=0.5)
    with pytest.raises(UsageError, match="batch is 0; allowed: 1 or more"):
        model.caption(sounds[0], batch=0)
    assert model.caption([]) == []
    (tmp_path / "text.wav").write_text("hello")
    sources = [Source("a", lambda: sounds[0]), Source("b", lambda: str(tmp_path / "text.wav"))]
    good, bad = caption_sources(model, [*sources], Decoding("greedy"))
    assert good.name == "a" and isinstance(bad, BadSample) and "cannot be decoded" in bad.reason


def test_a_checkpoint_of_a_captioning_run_writes_captions(captioning, sounds):
    model = atr.load(captioning)
    found = model.caption(sounds, **NUCLEUS)
    assert len(set(found)) > 3 and atr.load(captioning).caption(sounds, **NUCLEUS) == found
    assert model.encode_audio(sounds).shape == (6, 32)  # it does what a contrastive model does, too

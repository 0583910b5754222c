"""`atr.load`: one sound, one embedding, however it comes; and messages that name the file."""

import io
import warnings

import numpy as np
import pytest
import soundfile
import soxr
import torch

import atr
from atr.errors import DataError, UsageError
from atr.evaluation.encode import encode_clips
from atr.inference import BATCH, Source
from atr.pipeline.datamodule import AudioTextData
from tests.conftest import make_clips, tone


@pytest.fixture
def model(trained):
    return atr.load(trained)


@pytest.fixture
def sound(tmp_path):
    soundfile.write(tmp_path / "tone.wav", tone(440, 1.3), 16_000)
    return tmp_path / "tone.wav"


def test_path_file_and_array_give_the_same_bits_and_twice_the_same(model, sound):
    samples, rate = soundfile.read(sound, dtype="float32")
    forms = [sound, str(sound), io.BytesIO(sound.read_bytes()), (samples, rate), (samples[:, None], rate)]
    embeddings = [model.encode_audio(form) for form in forms]
    assert embeddings[0].shape == (1, 32) and embeddings[0].dtype == torch.float32
    assert embeddings[0].norm().item() == pytest.approx(1.0, abs=1e-6)
    assert all(torch.equal(embeddings[0], other) for other in embeddings[1:])
    assert torch.equal(model.encode_audio(sound), embeddings[0])
    integers = (samples * 32768).astype(np.int16)
    torch.testing.assert_close(model.encode_audio((integers, rate)), embeddings[0], atol=1e-5, rtol=0)


def test_together_equals_one_by_one(model):
    sounds = [(tone(200 + 50 * i, 0.3 + 0.02 * i), 16_000) for i in range(40)]  # more than one batch
    together = model.encode_audio(sounds)
    alone = torch.cat([model.encode_audio(sound) for sound in sounds])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    texts = [f"note {i} rings" for i in range(40)]
    torch.testing.assert_close(
        model.encode_text(texts), torch.cat([model.encode_text(t) for t in texts]), atol=1e-5, rtol=0
    )
    assert model.encode_audio([]).shape == model.encode_text([]).shape == (0, 32)


def test_thirty_two_sounds_of_mixed_lengths_equal_each_alone(model, tmp_path):
    rng = np.random.default_rng(0)
    sounds = []
    for number, seconds in enumerate(np.geomspace(0.1, 35, 32)):
        samples = (tone(150 + 40 * number, seconds) + rng.standard_normal(round(seconds * 16_000)) * 0.01).astype("f4")
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, samples, 16_000)
        sounds.append([path, io.BytesIO(path.read_bytes()), (samples, 16_000)][number % 3])
    together = model.encode_audio(sounds)
    assert torch.equal(model.encode_audio(sounds), together)
    alone = torch.cat([model.encode_audio(sound) for sound in sounds])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert (together - together.roll(1, 0)).abs().amax(dim=1).min() > 1e-4  # a control: a row's neighbour
    frames = model.encode_audio(sounds[::6], frames=True)
    for sound, one in zip(sounds[::6], frames, strict=True):
        (by_itself,) = model.encode_audio(sound, frames=True)
        torch.testing.assert_close(one.embeddings, by_itself.embeddings, atol=1e-5, rtol=0)
        assert torch.equal(one.times, by_itself.times)


def test_a_stereo_mp3_is_its_mono_wav(model, tmp_path):
    time = np.arange(3 * 44_100) / 44_100
    left = 0.4 * np.sin(2 * np.pi * 440 * time) * np.exp(-time)
    right = 0.3 * np.sin(2 * np.pi * 900 * time)
    soundfile.write(tmp_path / "a.mp3", np.stack([left, right], axis=1), 44_100)
    soundfile.write(tmp_path / "a.wav", soxr.resample((left + right) / 2, 44_100, 48_000), 48_000)
    soundfile.write(tmp_path / "left.wav", soxr.resample(left, 44_100, 48_000), 48_000)
    with pytest.warns(UserWarning, match=r"a\.mp3: 2 channels mixed to mono"):
        mp3, wav, one = model.encode_audio([tmp_path / "a.mp3", tmp_path / "a.wav", tmp_path / "left.wav"])
    assert mp3 @ wav >= 0.999
    assert mp3 @ one < 0.99  # a control: one of its channels


def test_sounds_are_decoded_when_their_turn_comes(model):
    opened = []

    def source(number):
        return Source(str(number), lambda: opened.append(number) or (tone(300, 0.2), 16_000))

    results = model.encode_sources([source(number) for number in range(5 * BATCH)], "mean")
    assert next(results).name == "0" and len(opened) <= BATCH + 1
    assert [one.name for one in results] == [str(number) for number in range(1, 5 * BATCH)]


def test_text_beyond_the_limit_is_cut_with_one_warning(model):
    limit = model.clap.text.tokenizer.max_tokens
    long = "rain " * (limit + 10)
    with pytest.warns(UserWarning) as told:
        cut = model.encode_text(["rain", long, long + "and a dog"])
    assert len(told) == 1 and f"2 of 3 captions are longer than the {limit} tokens" in str(told[0].message)
    assert torch.equal(cut[1], cut[2]) and not torch.equal(cut[0], cut[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode_text(["rain", "a dog"])


def test_training_and_inference_hear_the_same(model, trained, tmp_path):
    """Validation on the run's own shards gives the embeddings that `encode_audio` gives of the files."""
    shards, clap = trained.parents[2] / "shards", model.clap
    data = AudioTextData(
        [], [], [str(shards)], clap.text.tokenizer, model.seconds, model.sample_rate, 8, 0, num_workers=0
    )
    audio = torch.cat([encode_clips(clap, batch)[0] for batch in data.evaluation_loader("test")])
    files = [clip.audio for clip in make_clips(tmp_path)]
    torch.testing.assert_close(audio, model.encode_audio(files, windows="first"), atol=1e-5, rtol=0)


def test_classify_ranks_labels_by_cosine(model, sound):
    ranked = model.classify(sound, ["high_note", "low_note", "dog"], template="A {label}")
    assert [cosine for _, cosine in ranked] == sorted((cosine for _, cosine in ranked), reverse=True)
    cosine = model.similarity(model.encode_audio(sound), model.encode_text(["A high note"])).item()
    assert dict(ranked)["high_note"] == pytest.approx(cosine, abs=1e-6)
    assert {label for label, _ in model.classify(sound)} == {"high_note", "low_note"}  # the training data's


def test_what_is_wrong_is_named(model, sound, tmp_path):
    with pytest.raises(DataError, match=r"gone\.wav: no such file"):
        model.encode_audio("gone.wav")
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(DataError, match=r"text\.wav cannot be decoded"):
        model.encode_audio([sound, tmp_path / "text.wav"])
    with pytest.raises(DataError, match="sound 1 holds NaN"):
        model.encode_audio([sound, (np.full(100, np.nan), 16_000)])
    with pytest.raises(DataError, match="sound 0 holds no samples"):
        model.encode_audio((np.zeros(0), 16_000))
    wave = np.zeros(100, np.float32)
    for wrong, message in [
        (wave, "sound 0 is a ndarray; give a path"),
        ([wave, wave], "sound 0 is a ndarray; give a path"),
        ((np.zeros((2, 100)), 16_000), r"has 100 channels .*samples \(T,\) or \(T, channels\)"),
        ((np.zeros((1, 2, 5)), 16_000), r"holds float64 of shape \(1, 2, 5\)"),
        ((wave.astype(np.complex64), 16_000), "holds complex64"),
        ((wave, 0), "has no sample rate beside it"),
        ((wave, None), "has no sample rate beside it"),
    ]:
        with pytest.raises(DataError, match=message):
            model.encode_audio(wrong)
    with pytest.raises(UsageError, match=r"labels is a text; give a list: \['dog'\]"):
        model.classify(sound, "dog")
    with pytest.raises(UsageError, match=r"has no \{label\} in it"):
        model.classify(sound, ["a", "b"], template="a sound")
    model.labels = []
    with pytest.raises(UsageError, match="no labels to choose from"):
        model.classify(sound)


def test_a_tensor_with_its_rate_is_one_sound(model):
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    assert model.encode_audio((torch.from_numpy(wave), 16_000)).equal(model.encode_audio((wave, 16_000)))


def test_silence_and_telephone_sound_are_taken_with_a_warning(model):
    with pytest.warns(UserWarning, match="is silent"):
        assert model.encode_audio((np.zeros(16_000, np.float32), 16_000)).isfinite().all()
    with pytest.warns(UserWarning, match=r"8000 Hz resampled|2 channels mixed"):
        model.encode_audio((tone(300, 1.0, 8_000, channels=2), 8_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode_audio((tone(300), 16_000))

"""`atr.load`: one sound, one embedding, however it comes; and messages that name the file."""

import io
import warnings

import numpy as np
import pytest
import soundfile
import torch

import atr
from atr.errors import DataError, UsageError
from atr.evaluation.run import evaluate_checkpoint
from atr.experiment import train
from tests.conftest import tone


@pytest.fixture
def model(tiny):
    train(tiny("trainer.max_epochs=1"))
    return atr.load(tiny.run_dir / "checkpoints" / "last.ckpt")


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
    sounds = [(tone(200 + 50 * i, 0.3 + 0.1 * i), 16_000) for i in range(40)]  # more than one batch
    together = model.encode_audio(sounds)
    alone = torch.cat([model.encode_audio(sound) for sound in sounds])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    texts = [f"note {i} rings" for i in range(40)]
    torch.testing.assert_close(
        model.encode_text(texts), torch.cat([model.encode_text(t) for t in texts]), atol=1e-5, rtol=0
    )
    assert model.encode_audio([]).shape == model.encode_text([]).shape == (0, 32)


def test_training_and_inference_hear_the_same(model, tiny, clips):
    """The evaluation of the run's own shards gives the embeddings that `encode_audio` gives of the files."""
    encoded = evaluate_checkpoint(tiny.run_dir / "checkpoints" / "last.ckpt").encoded
    direct = model.encode_audio([clip.audio for clip in clips])
    torch.testing.assert_close(encoded.audio, direct, atol=1e-5, rtol=0)


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
    with pytest.raises(UsageError, match=r"has no \{label\} in it"):
        model.classify(sound, ["a", "b"], template="a sound")
    model.labels = []
    with pytest.raises(UsageError, match="no labels to choose from"):
        model.classify(sound)


def test_silence_and_telephone_sound_are_taken_with_a_warning(model):
    with pytest.warns(UserWarning, match="is silent"):
        assert model.encode_audio((np.zeros(16_000, np.float32), 16_000)).isfinite().all()
    with pytest.warns(UserWarning, match=r"8000 Hz resampled|2 channels mixed"):
        model.encode_audio((tone(300, 1.0, 8_000, channels=2), 8_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode_audio((tone(300), 16_000))

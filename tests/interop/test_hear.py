"""HEAR's common API: its attributes, shapes, types and times, and its own validator."""

import sys
import types

import numpy as np
import pytest
import torch

import atr
from atr.errors import CheckpointError
from atr.interop import hear
from tests.conftest import tone


def test_the_suites_own_validator(checkpoint, monkeypatch, capsys):
    """The validator asks TensorFlow only whether the model is one of its own, so an empty stand-in does."""
    stand_in = types.ModuleType("tensorflow")
    stand_in.Module = type("Module", (), {})
    monkeypatch.setitem(sys.modules, "tensorflow", stand_in)
    validate = pytest.importorskip("hearvalidator.validate")
    validate.ValidateModel("atr.interop.hear", str(checkpoint), device="cpu")()
    assert "scene_embedding_size: 32" in capsys.readouterr().out
    monkeypatch.setattr(hear, "get_timestamp_embeddings", _uneven)  # the control
    with pytest.raises(validate.ModelError, match="regular intervals"):
        validate.ValidateModel("atr.interop.hear", str(checkpoint), device="cpu")()


def _uneven(audio, model, even=hear.get_timestamp_embeddings):
    embeddings, times = even(audio, model)
    return embeddings, times**1.1


def test_attributes_shapes_types_and_times(checkpoint):
    model = hear.load_model(str(checkpoint))
    assert isinstance(model, torch.nn.Module) and list(model.parameters())
    assert (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size) == (16_000, 32, 64)
    audio = torch.rand(3, 2 * 16_000 + 1000) * 2 - 1
    scenes = hear.get_scene_embeddings(audio, model)
    assert scenes.shape == (3, 32) and scenes.dtype == torch.float32 and scenes.device == audio.device
    embeddings, times = hear.get_timestamp_embeddings(audio, model)
    assert embeddings.dtype == times.dtype == torch.float32 and embeddings.device == times.device == audio.device
    assert embeddings.shape == (*times.shape, 64)
    hop = 1000 / times.shape[1] * 2.0625  # ms; the tiny model's window of 1 s has a whole number of them
    assert (times[:, 0] > 0).all() and (times < 2062.5).all()
    assert (times.diff(dim=1) - times[0, 0] * 2).abs().max() < 1e-3
    assert times[0, 0] * 2 == pytest.approx(hop, rel=0.05)
    for found in (scenes, embeddings):
        assert not found.requires_grad
        torch.nn.Linear(found.shape[-1], 2)(found).sum().backward()  # a probe can be trained on it


def test_scenes_are_what_encode_audio_gives_and_know_one_sound_from_another(checkpoint):
    model, sounds = hear.load_model(str(checkpoint)), [tone(300), tone(900)]
    scenes = hear.get_scene_embeddings(torch.from_numpy(np.stack(sounds)), model)
    assert torch.equal(scenes, atr.load(checkpoint).encode_audio([(sound, 16_000) for sound in sounds]))
    assert (scenes[0] - scenes[1]).abs().max() > 1e-3


def test_a_sound_that_is_shorter_than_a_frame_has_one(checkpoint):
    model = hear.load_model(str(checkpoint))
    embeddings, times = hear.get_timestamp_embeddings(torch.rand(2, 100), model)
    assert embeddings.shape == (2, 1, 64) and times.shape == (2, 1)


def test_a_rate_that_hear_does_not_have_is_the_next_higher_one(write):
    """HEAR's data come at four rates; the demo's 32 kHz is none of them."""
    model = hear.load_model(str(write("model.mel.sample_rate=32000", "model.mel.hop=320", "model.mel.n_fft=1024")))
    assert model.sample_rate == 44_100
    low, high = (torch.from_numpy(tone(440, rate=rate)[None]) for rate in (32_000, 44_100))
    found = hear.get_scene_embeddings(high, model)
    expected = model.model.encode_audio((low[0].numpy(), 32_000))
    wrong = model.model.encode_audio((high[0].numpy(), 32_000))
    assert (found - expected).abs().max() < 0.1 * (found - wrong).abs().max()
    frames, times = hear.get_timestamp_embeddings(high, model)
    assert frames.shape[1] == times.shape[1] > 1 and times.max() < 1000


def test_a_missing_checkpoint_is_named():
    with pytest.raises(CheckpointError, match=r"gone\.ckpt is not there"):
        hear.load_model("gone.ckpt")

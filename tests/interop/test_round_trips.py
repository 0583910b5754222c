"""Weights that go out come back as they were, and what came from elsewhere leaves as it came."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ClapModel, ClapProcessor

import atr
from atr.checkpoint import build_model, read_checkpoint
from atr.errors import CheckpointError
from atr.interop.agreement import CAPTIONS, encode_captions, encode_sounds, sounds
from atr.interop.export import export
from tests.interop.clap import audio_reference, random_clap, save, small_text, text_reference
from tests.interop.test_laion import laion_file

FUSED = ("+model.audio.fusion=true", "+model.mel.mel_scale=htk", "model.mel.n_mels=64", "model.audio.picture_size=128")


@pytest.mark.parametrize("overrides", [(), FUSED], ids=["plain", "fused"])
def test_to_transformers_and_back_the_weights_are_the_same(make, tmp_path, overrides):
    path = make("model.text.config.layer_norm_eps=1e-4", *overrides)
    export(path, tmp_path / "out")
    before, after = read_checkpoint(path), read_checkpoint(tmp_path / "out")
    assert before.weights.keys() - after.weights.keys() == set() == after.weights.keys() - before.weights.keys()
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in before.weights)
    assert after.log_scale == before.log_scale
    one, other = build_model(before), build_model(after)
    waves = list(sounds(16_000, 1.0).values())
    assert torch.equal(encode_sounds(one, waves), encode_sounds(other, waves))
    assert torch.equal(encode_captions(one, CAPTIONS[:4]), encode_captions(other, CAPTIONS[:4]))


def test_a_weight_that_was_lost_on_the_way_would_be_noticed(make, tmp_path):
    export(make(), tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    del tensors["audio_model.audio_encoder.layers.1.downsample.norm.bias"]
    save_file(tensors, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="1 tensors missing"):
        atr.load(tmp_path / "out")

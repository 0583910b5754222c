"""Weights that go out come back as they were, and what came from elsewhere leaves as it came."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ClapModel, ClapProcessor

import atr
from atr.checkpoint import build_model, read_checkpoint
from atr.errors import CheckpointError
from atr.interop.agreement import CAPTIONS, encode_captions, encode_sounds
from atr.interop.agreement import sounds as generated
from atr.interop.export import export
from tests.interop.clap import CAPTIONS as SAID
from tests.interop.clap import audio_reference, sounds, text_reference
from tests.interop.test_laion import load, written

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
    waves = list(generated(16_000, 1.0).values())
    assert torch.equal(encode_sounds(one, waves), encode_sounds(other, waves))
    assert torch.equal(encode_captions(one, CAPTIONS[:4]), encode_captions(other, CAPTIONS[:4]))


def test_a_weight_that_was_lost_on_the_way_would_be_noticed(make, tmp_path):
    export(make(), tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    del tensors["audio_model.audio_encoder.layers.1.downsample.norm.bias"]
    save_file(tensors, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="1 tensors missing"):
        atr.load(tmp_path / "out")


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_laions_file_leaves_for_transformers_with_the_same_embeddings(tokenizer, tmp_path, fused):
    folder = written(tmp_path, tokenizer, fused)  # a model as LAION's file, and as a folder of transformers
    export(folder / "clap.pt", tmp_path / "out", tokenizer=folder / "tokenizer")
    ours = load(folder / "clap.pt", folder)
    theirs = ClapModel.from_pretrained(tmp_path / "out").eval()
    processor = ClapProcessor.from_pretrained(tmp_path / "out")
    audio = audio_reference(theirs, processor.feature_extractor)
    audio_difference = (audio - ours.encode_audio(sounds())).abs().max()
    text_difference = (text_reference(theirs, ours.clap.text.tokenizer) - ours.encode_text(SAID)).abs().max()
    assert audio_difference < 7e-6 and text_difference < 2e-6  # measured: 7e-7 and 2.5e-7
    before, after = (ClapModel.from_pretrained(tmp_path / name).state_dict() for name in ("hf", "out"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    # The control: with queries and keys exchanged it is another model.
    other = {".query.": ".key.", ".key.": ".query."}
    names = {key: re.sub(r"\.(query|key)\.", lambda found: other[found[0]], key) for key in before}
    theirs.load_state_dict({names[key]: value for key, value in before.items()})
    assert (audio_reference(theirs, processor.feature_extractor) - audio).abs().max() > 1e-3

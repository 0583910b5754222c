"""ONNX encoders give the model's embeddings, for any batch and any caption."""

import json
import sys

import numpy as np
import pytest
import torch

from atr.checkpoint import build_model, read_checkpoint
from atr.errors import CheckpointError, UsageError
from atr.interop import to_onnx
from atr.interop.agreement import MOST_DIFFERENCE, as_float, encode_captions, encode_sounds, sounds
from atr.interop.export import export
from atr.pipeline.audio import repeat_pad
from tests.interop.conftest import LOG_SCALE


@pytest.fixture
def onnx():
    for name in to_onnx.PACKAGES:
        pytest.importorskip(name)


def test_batches_and_lengths_other_than_those_of_the_export(onnx, make, tmp_path):
    path = make("model.text.pooling=mean", "model.audio.window=8")  # neither fits ClapModel
    agreement = export(path, tmp_path / "out", "onnx").agreement
    # measured: 2.9e-5 (a pure tone, by rounding in the Fourier transform) and 3.6e-7
    assert agreement.audio_difference < MOST_DIFFERENCE and agreement.text_difference < 4e-6
    clap = build_model(read_checkpoint(path))
    about = json.loads((tmp_path / "out" / "encoders.json").read_text())
    assert about["logit_scale"] == pytest.approx(np.exp(LOG_SCALE)) and about["sample_rate"] == 16_000
    audio, text = (to_onnx.session(tmp_path / "out" / f"{side}.onnx") for side in ("audio", "text"))
    waves = list(sounds(16_000, 1.0).values())
    for rows in (waves[:1], waves[1:4]):
        heard = np.stack([repeat_pad(as_float(wave), about["samples"]) for wave in rows])
        torch.testing.assert_close(
            to_onnx.run(audio, {"waveform": heard}), encode_sounds(clap, rows), atol=MOST_DIFFERENCE, rtol=0
        )
    for captions in (["rain"], ["a dog barks", "a much longer caption about the sea", "x"]):
        tokens = {name: value.numpy() for name, value in clap.text.tokenizer(captions).items()}
        torch.testing.assert_close(to_onnx.run(text, tokens), encode_captions(clap, captions), atol=4e-6, rtol=0)
    assert "onnxruntime" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_a_model_with_fusion_hears_clips_of_its_length(onnx, make, tmp_path):
    path = make("+model.audio.fusion=true", "+model.mel.mel_scale=htk")
    assert export(path, tmp_path / "out", "onnx").agreement.audio_difference < MOST_DIFFERENCE
    assert "that is not in `audio.onnx`" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_an_export_that_computes_something_else_is_refused(onnx, make, tmp_path, monkeypatch):
    exact = to_onnx.fourier_basis
    monkeypatch.setattr(to_onnx, "fourier_basis", lambda mel: exact(mel).roll(1, dims=2))
    with pytest.raises(CheckpointError, match="the audio embeddings differ"):
        export(make(), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_the_fourier_transform_by_convolution_is_that_of_the_front_end(make):
    clap = build_model(read_checkpoint(make()))
    waveform = torch.from_numpy(as_float(sounds(16_000, 1.0)["chirp"]))[None]
    with torch.inference_mode():
        ours = to_onnx.Audio(clap)(waveform)
        torch.testing.assert_close(ours, clap.encode_audio(waveform), atol=MOST_DIFFERENCE, rtol=0)


def test_without_the_packages_the_extra_is_named(make, tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "find_spec", lambda name: None if name == "onnxscript" else sys)
    with pytest.raises(UsageError, match=r'needs onnxscript; install them: pip install "atr\[onnx\]"'):
        export(make(), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()

"""A `Clap` as two ONNX encoders, waveform -> embedding and tokens -> embedding, and whether they compute the same."""

import json
import math
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atr.errors import UsageError
from atr.interop.agreement import (
    CAPTIONS,
    Agreement,
    as_float,
    encode_captions,
    encode_sounds,
    least_cosine,
    most_difference,
    sounds,
)
from atr.interop.to_hf import write_tokenizer
from atr.models.clap import Clap
from atr.models.mel import LogMel
from atr.pipeline.audio import repeat_pad

OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def obstacles(clap: Clap) -> Iterator[str]:
    """What of a model cannot be exported.

    Raises:
        UsageError: the packages of the extra are not installed.
    """
    if lacking := [name for name in PACKAGES if find_spec(name) is None]:
        raise UsageError(f'--to onnx needs {", ".join(lacking)}; install them: pip install "atr[onnx]"')
    yield from ()


class Audio(nn.Module):
    """Waveform float32 `(B, T)` -> `(B, D)`, T as long as a clip, so that a model with fusion has nothing to fuse.

    The Fourier transform is a convolution, which every runtime has.
    """

    basis: Tensor

    def __init__(self, clap: Clap) -> None:
        super().__init__()
        self.clap, self.mel = clap, clap.mel
        self.register_buffer("basis", fourier_basis(clap.mel), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """`(B, T)` -> `(B, D)`."""
        mel = self.mel
        padded = F.pad(waveform.unsqueeze(1), (mel.n_fft // 2, mel.n_fft // 2), mode="reflect")
        real, imaginary = F.conv1d(padded, self.basis, stride=mel.hop).chunk(2, dim=1)
        power = (real.square() + imaginary.square()).transpose(1, 2)  # (B, F, n_fft / 2 + 1)
        log_mel = 10.0 * torch.log10((power @ mel.filterbank).clamp_min(mel.floor))
        return F.normalize(self.clap.audio_projection(self.clap.audio(log_mel)), dim=1)


class Text(nn.Module):
    """Tokens int64 `(B, L)` twice -> `(B, D)`."""

    def __init__(self, clap: Clap) -> None:
        super().__init__()
        self.clap = clap

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`(B, L)` twice -> `(B, D)`."""
        return self.clap.encode_text(input_ids, attention_mask)


def fourier_basis(mel: LogMel) -> Tensor:
    """The windowed waves of a discrete Fourier transform, float32: `(n_fft + 2, 1, n_fft)`, cosines before sines."""
    turn = torch.arange(mel.n_fft // 2 + 1).unsqueeze(1) * torch.arange(mel.n_fft) % mel.n_fft  # exact in integers
    angle = turn.double() * (2 * math.pi / mel.n_fft)
    waves = torch.cat([angle.cos(), -angle.sin()]) * mel.window.double()
    return waves.float().unsqueeze(1)


def write(folder: Path, clap: Clap, log_scale: float) -> None:
    """Writes `audio.onnx`, `text.onnx`, the tokenizer and `encoders.json` into a folder."""
    mel = clap.mel
    samples = round(mel.seconds * mel.sample_rate)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("tokens", max=clap.text.tokenizer.max_tokens)
    tokens = clap.text.tokenizer(["a dog barks", "rain"])
    save(Audio(clap), {"waveform": torch.zeros(2, samples)}, {"waveform": {0: batch}}, folder, "audio")
    save(Text(clap), tokens, {name: {0: batch, 1: length} for name in tokens}, folder, "text")
    write_tokenizer(folder, clap)
    about = {
        "sample_rate": mel.sample_rate, "seconds": mel.seconds, "samples": samples, "padding": "repeatpad",
        "max_tokens": clap.text.tokenizer.max_tokens, "dim": clap.dim, "logit_scale": math.exp(log_scale),
        "inputs": {"audio.onnx": ["waveform"], "text.onnx": list(tokens)},
        "outputs": {"audio.onnx": ["audio_embedding"], "text.onnx": ["text_embedding"]},
    }  # fmt: skip
    (folder / "encoders.json").write_text(json.dumps(about, indent=2) + "\n")


def save(module: nn.Module, inputs: dict[str, Tensor], shapes: dict[str, Any], folder: Path, side: str) -> None:
    """Exports a module with inputs of these names; its output is `audio_embedding` or `text_embedding`."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            module.eval(), kwargs=inputs, f=folder / f"{side}.onnx", input_names=list(inputs),
            output_names=[f"{side}_embedding"], dynamic_shapes=shapes, opset_version=OPSET, dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip


def compare(folder: Path, clap: Clap, log_scale: float) -> Agreement:
    """Runs both encoders in onnxruntime beside the checkpoint's model: all at once, and one by one."""
    waves = list(sounds(clap.mel.sample_rate, clap.mel.seconds).values())
    length = round(clap.mel.seconds * clap.mel.sample_rate)
    ours = encode_sounds(clap, waves), encode_captions(clap, CAPTIONS)
    heard = np.stack([repeat_pad(as_float(wave), length) for wave in waves])
    audio, text = session(folder / "audio.onnx"), session(folder / "text.onnx")
    tried = [
        (ours[0][rows], run(audio, {"waveform": heard[rows]}))
        for rows in (slice(0, 1), slice(0, 3), slice(0, len(waves)))
    ]
    read = []
    for rows in (slice(0, 1), slice(0, 3), slice(0, len(CAPTIONS))):  # of other lengths, too
        tokens = {name: value.numpy() for name, value in clap.text.tokenizer(CAPTIONS[rows]).items()}
        read.append((ours[1][rows], run(text, tokens)))
    return Agreement(
        min(least_cosine(*pair) for pair in tried), min(least_cosine(*pair) for pair in read),
        max(most_difference(*pair) for pair in tried), max(most_difference(*pair) for pair in read),
    )  # fmt: skip


def session(path: Path) -> Any:
    """An encoder on the processor."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(encoder: Any, inputs: dict[str, np.ndarray]) -> Tensor:
    """An encoder's `(B, D)`."""
    return torch.from_numpy(encoder.run(None, inputs)[0])

"""A checkpoint as something to use: `atr.load(path)`."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from atr.checkpoint import build_model, read_checkpoint, use_tokenizer
from atr.errors import DataError, UsageError
from atr.evaluation.encode import check_templates, encode_labels, encode_texts
from atr.models.clap import Clap
from atr.pipeline.audio import decode_clip, prepare_waveform, to_int16

Sound = str | Path | BinaryIO | tuple[np.ndarray, int]
BATCH = 32  # clips encoded together
DEFAULT_TEMPLATE = "The sound of {label}"  # arXiv 2309.11500


class AudioTextModel:
    """A trained model: sound and text into one space. Deterministic, float32.

    Attributes:
        clap: the torch module.
        seconds, sample_rate: what it listens to; longer sound is heard from its beginning.
        labels: of the data it was trained on; empty when unknown.
    """

    def __init__(self, clap: Clap, labels: Sequence[str] = ()) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.clap = clap.to(self.device).eval()
        self.seconds, self.sample_rate = clap.mel.seconds, clap.mel.sample_rate
        self.labels = list(labels)

    @torch.inference_mode()
    def encode_audio(self, sounds: Sound | Sequence[Sound]) -> Tensor:
        """Embeds sounds: paths, open files, or `(samples, sample_rate in Hz)` with samples `(T,)` or `(T, channels)`.

        Returns:
            `(N, D)`, unit norm, float32, on the CPU.

        Raises:
            DataError: a sound cannot be read, is empty or holds NaN; the message names it.
        """
        if isinstance(sounds, str | Path) or _is_array(sounds) or hasattr(sounds, "read"):
            sounds = [sounds]  # type: ignore[list-item]
        waveforms = [self._waveform(sound, number) for number, sound in enumerate(sounds)]  # type: ignore[arg-type]
        if not waveforms:
            return torch.zeros(0, self.clap.dim)
        parts = [torch.from_numpy(np.stack(waveforms[i : i + BATCH])) for i in range(0, len(waveforms), BATCH)]
        return torch.cat([self.clap.encode_audio(part.to(self.device)).cpu() for part in parts])

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Embeds captions: `(M, D)`, unit norm, float32, on the CPU."""
        return encode_texts(self.clap, [texts] if isinstance(texts, str) else list(texts), self.device)

    def similarity(self, audio: Tensor, text: Tensor) -> Tensor:
        """Cosine of embeddings `(N, D)` and `(M, D)`: `(N, M)`."""
        return audio @ text.T

    def classify(
        self, sound: Sound, labels: Sequence[str] = (), template: str = DEFAULT_TEMPLATE
    ) -> list[tuple[str, float]]:
        """The labels, most similar first, each with its cosine.

        Args:
            labels: candidates; the training data's when empty.
            template: prompt with `{label}`.

        Raises:
            UsageError: no labels, or a template without `{label}`.
        """
        return self.classify_all([sound], labels, template)[0]

    def classify_all(
        self, sounds: Sequence[Sound], labels: Sequence[str] = (), template: str = DEFAULT_TEMPLATE
    ) -> list[list[tuple[str, float]]]:
        """`classify` for several sounds; labels are embedded once."""
        names = list(labels) or self.labels
        if not names:
            raise UsageError(
                "no labels to choose from: this checkpoint knows none, so name some (labels=…, --labels a,b)"
            )
        text = encode_labels(self.clap, names, check_templates([template]), self.device)
        cosine = self.similarity(self.encode_audio(sounds), text)
        order = cosine.argsort(dim=1, descending=True, stable=True).tolist()
        return [[(names[i], float(row[i])) for i in ranks] for row, ranks in zip(cosine, order, strict=True)]

    def _waveform(self, sound: Sound, number: int) -> np.ndarray:
        name = f"sound {number}" if isinstance(sound, tuple) else str(getattr(sound, "name", sound))
        if isinstance(sound, str | Path) and not Path(sound).is_file():
            raise DataError(f"{name}: no such file")
        try:
            if isinstance(sound, tuple):
                samples, rate = np.asarray(sound[0]), int(sound[1])
                if np.issubdtype(samples.dtype, np.integer):
                    samples = samples / np.float32(np.iinfo(samples.dtype).max + 1.0)
                waveform, notes = prepare_waveform(samples.astype(np.float32), rate, self.seconds, self.sample_rate)
            else:
                file = str(sound) if isinstance(sound, Path) else sound
                waveform, notes = decode_clip(file, self.seconds, self.sample_rate)
        except DataError as error:
            raise DataError(f"{name} {error}") from error
        for note in notes:
            warnings.warn(f"{name}: {note}", stacklevel=3)
        return to_int16(waveform)[0]


def load(path: str | Path, tokenizer: str | Path | None = None) -> AudioTextModel:
    """Loads a model for use: a checkpoint of this project, or a released CLAP.

    Args:
        path: as `atr.checkpoint.read_checkpoint` takes it: a `.ckpt` or `.safetensors` of training, a folder or hub
            name of `transformers`' `ClapModel`, a `.pt` of LAION-CLAP or Auto-ACD.
        tokenizer: a folder or hub name, for files that carry none (LAION's); roberta-base by default.

    Raises:
        CheckpointError: it is not there or holds no such model.
        UsageError: a tokenizer is given for a model that brings its own.
    """
    checkpoint = read_checkpoint(path)
    use_tokenizer(checkpoint, tokenizer)
    return AudioTextModel(build_model(checkpoint), checkpoint.about["labels"])


def _is_array(sound: object) -> bool:
    return isinstance(sound, tuple) and len(sound) == 2 and isinstance(sound[0], np.ndarray)

"""Clips of any length -> embeddings along time, evenly spaced as X-ARES and HEAR want them."""

import math

import numpy as np
import soxr
import torch
from torch import Tensor

from atr.errors import DataError
from atr.inference import BATCH, AudioTextModel
from atr.pipeline.audio import prepare_waveform, to_int16


def frames_of_window(model: AudioTextModel) -> int:
    """How many embeddings a window of `model.seconds` gives; 32 in CLAP's 10 s."""
    audio = model.clap.audio
    return audio.picture_size // audio.n_mels * audio.last_side


def frame_seconds(model: AudioTextModel) -> float:
    """The time that an embedding stands for, s; 0.3125 for CLAP."""
    return model.seconds / frames_of_window(model)


def on_device_of(model: AudioTextModel) -> AudioTextModel:
    """The model, aware of the device that a suite has moved its weights to."""
    model.device = next(model.clap.parameters()).device
    return model


def frame_embeddings(model: AudioTextModel, audio: Tensor, rate: int) -> Tensor:
    """Embeds clips along time by the audio tower, before its projection.

    Args:
        audio: float32 `(B, T)` at `rate` Hz.

    Returns:
        float32 `(B, N, model.clap.audio.dim)` on the device of `audio`. Embedding i stands for `frame_seconds(model)`
        from i times that on; N covers the clip.

    Raises:
        DataError: a clip is empty or holds NaN.
    """
    rows = [torch.zeros(0, 0, model.clap.audio.dim)]
    for number, samples in enumerate(audio.detach().cpu().numpy()):
        try:
            rows.append(_frames_of_clip(model, samples, rate)[None])
        except DataError as error:
            raise DataError(f"clip {number} of the batch {error}") from error
    return torch.cat(rows[1:] or rows).to(audio.device).clone()  # a copy that a probe can be trained on


@torch.inference_mode()
def _frames_of_clip(model: AudioTextModel, samples: np.ndarray, rate: int) -> Tensor:
    """One clip `(T,)` -> `(N, dim)`."""
    per_window, length = frames_of_window(model), round(model.seconds * model.sample_rate)
    total = math.ceil(len(samples) / rate / frame_seconds(model) - 1e-6)
    if rate != model.sample_rate:
        samples = soxr.resample(samples, rate, model.sample_rate)
    starts = window_starts(total, per_window)
    pieces = [samples[(begin := round(start * length / per_window)) : begin + length] for start in starts]
    heard = [prepare_waveform(piece, model.sample_rate, model.seconds, model.sample_rate)[0] for piece in pieces]
    parts = []
    for first in range(0, len(heard), BATCH):
        batch = torch.from_numpy(np.stack([to_int16(waveform)[0] for waveform in heard[first : first + BATCH]]))
        parts.append(model.clap.audio.frames(model.clap.mel(batch.to(model.device))).cpu())
    ends = [0, *(start + per_window for start in starts)]
    return torch.cat(
        [frames[end - start :] for frames, start, end in zip(torch.cat(parts), starts, ends, strict=False)]
    )[:total]


def window_starts(total: int, per_window: int) -> list[int]:
    """Where the windows over `total` frames start, in frames.

    They lie end to end, but the last one ends with the clip and so overlaps the one before it: what it hears is the
    clip, and not padding. It starts at a whole frame, so that all frames stay evenly spaced.

    >>> window_starts(70, 32), window_starts(5, 32)
    ([0, 32, 38], [0])
    """
    return [*range(0, total - per_window, per_window), max(0, total - per_window)]

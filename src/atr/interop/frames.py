"""Clips of any length -> embeddings along time, evenly spaced as X-ARES and HEAR want them."""

import math

import numpy as np
import soxr
import torch
from torch import Tensor

from atr.errors import DataError
from atr.inference import BATCH, AudioTextModel
from atr.pipeline.audio import repeat_pad, to_int16


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
        from i times that on; N covers the clips.

    Raises:
        DataError: there are no samples, or NaN or infinite ones.
    """
    if audio.shape[1] == 0:
        raise DataError("the clips of the batch hold no samples; leave them out")
    if bad := (~audio.isfinite().all(dim=1)).nonzero().flatten().tolist():
        raise DataError(f"clip {bad[0]} of the batch holds NaN or infinite samples; write it again from its source")
    total = math.ceil(audio.shape[1] / rate / frame_seconds(model) - 1e-6)
    if len(audio) == 0:
        return torch.zeros(0, total, model.clap.audio.dim, device=audio.device)
    clips = audio.detach().float().cpu().numpy()
    if rate != model.sample_rate:
        clips = np.stack([soxr.resample(clip, rate, model.sample_rate) for clip in clips])
    return _joined(model, clips, total).to(audio.device).clone()  # a copy, on which a probe can be trained


@torch.inference_mode()
def _joined(model: AudioTextModel, clips: np.ndarray, total: int) -> Tensor:
    """Clips `(B, T)` at the model's rate -> `(B, total, dim)`, by `BATCH` windows at a time."""
    per_window, length = frames_of_window(model), round(model.seconds * model.sample_rate)
    starts = window_starts(total, per_window)
    pieces = [
        clip[(begin := round(start * length / per_window)) : begin + length] for clip in clips for start in starts
    ]
    parts = []
    for first in range(0, len(pieces), BATCH):
        batch = np.stack([to_int16(repeat_pad(piece, length))[0] for piece in pieces[first : first + BATCH]])
        parts.append(model.clap.audio.frames(model.clap.mel(torch.from_numpy(batch).to(model.device))).cpu())
    windows = torch.cat(parts).unflatten(0, (len(clips), len(starts)))  # (B, windows, frames of each, dim)
    heard = [0, *(start + per_window for start in starts)]
    new = [windows[:, i, heard[i] - start :] for i, start in enumerate(starts)]
    return torch.cat(new, dim=1)[:, :total]


def window_starts(total: int, per_window: int) -> list[int]:
    """Where the windows over `total` frames start, in frames.

    They lie end to end, but the last one ends with the clip and so overlaps the one before it: what it hears is the
    clip, and not padding. It starts at a whole frame, so that all frames stay evenly spaced.

    >>> window_starts(70, 32), window_starts(5, 32)
    ([0, 32, 38], [0])
    """
    return [*range(0, total - per_window, per_window), max(0, total - per_window)]

"""Sound of any length -> the windows that a model hears; vectors of windows -> the vector of a clip, and its frames.

Windows lie end to end from the clip's beginning, and the last one ends where the clip ends, over a part of the one
before it: all that is heard is sound of the clip, and all of the clip is heard. (A rest as a window of its own would
be a fraction of a second many times over, with the weight of a whole window.) Only a rest of at most one hop of the
log-mel (10 ms) is left off, because encoders make clips a little longer: 380 of ESC-10's 400 last 5.001 s, and would
cost the double for nothing. A clip shorter than a window is padded as in training. Clips are decoded and resampled
block by block and never held as a whole.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Literal, NamedTuple, get_args

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

from atr.errors import DataError, UsageError
from atr.pipeline.audio import (
    INT16_PEAK,
    NO_SAMPLES,
    NOT_FINITE,
    SILENCE_PEAK,
    SILENT,
    from_samples,
    listen,
    mixed,
    remarks,
    repeat_pad,
    to_int16,
    undecodable,
)
from atr.pipeline.decode import Sound, ends_early, open_sound

Windows = Literal["mean", "energy", "max", "first", "fusion"]
# Frames decoded at a time (47 s at 44.1 kHz). Each later block of a lossy file begins with a seek, which costs time and
# some exactness (see `shards/heard.py`), so most clips should be one block.
BLOCK = 1 << 21


class Window(NamedTuple):
    """What a model hears at once.

    `waveform`: int16 `(T,)`. `start`, `end`: the stretch of the clip in it, s; shorter than T where it is padded.
    `duration`: of the clip as far as it is known, s; with the last window it is the clip's.
    """

    waveform: np.ndarray
    start: float
    end: float
    duration: float


class Frames(NamedTuple):
    """A clip along time. `embeddings`: `(N, D)`, unit norm, float32. `times`: where each begins, s, float64 `(N,)`."""

    embeddings: Tensor
    times: Tensor


def check_windows(windows: str, fuses: bool, also: Sequence[str] = ()) -> None:
    """Refuses a way of covering clips that does not exist or that the model lacks.

    Raises:
        UsageError: naming those that there are.
    """
    there = [name for name in (*get_args(Windows), *also) if name != "fusion" or fuses]
    if windows not in there:
        why = " (this model has no feature fusion)" if windows == "fusion" else ""
        raise UsageError(f"windows is {windows!r}{why}; allowed: {', '.join(there)}")


def clip_windows(
    file: BinaryIO | str | tuple[np.ndarray, int],
    windows: str,
    seconds: float,
    sample_rate: int,
    note: Callable[[str], None],
    rest: int = 0,
) -> Iterator[Window]:
    """The windows of a clip, one after the other.

    Args:
        file: a path, an open binary file, or `(samples, rate in Hz)`: float32 `(frames,)` or `(frames, channels)`.
        windows: `first` reads no more than the first; `fusion` gives the whole clip as one.
        seconds, sample_rate: of a window, s and Hz.
        note: is told what a user should know about the clip.
        rest: samples beyond a window that are not worth another one.

    Raises:
        DataError: the file cannot be read, holds no samples, or NaN or infinite ones.
    """
    if isinstance(file, tuple):
        yield from _heard(from_samples(*file), windows, seconds, sample_rate, note, rest)
        return
    with open_sound(file) as sound:
        yield from _heard(sound, windows, seconds, sample_rate, note, rest)


def _heard(
    sound: Sound, windows: str, seconds: float, sample_rate: int, note: Callable[[str], None], rest: int
) -> Iterator[Window]:
    length = round(seconds * sample_rate)
    if windows == "first":  # the very same that training's evaluation hears
        waveform, notes = listen(sound, seconds, sample_rate)
        for one in notes:
            note(one)
        duration = sound.frames / sound.rate
        yield Window(to_int16(waveform)[0], 0.0, min(duration, seconds), duration)
    elif windows == "fusion":
        whole = np.concatenate(list(_resampled(sound, sample_rate, note)))
        end = len(whole) / sample_rate
        yield Window(to_int16(repeat_pad(whole, max(length, len(whole))))[0], 0.0, end, end)
    else:
        yield from cut(_resampled(sound, sample_rate, note), length, rest, sample_rate)


def cut(chunks: Iterator[np.ndarray], length: int, rest: int, sample_rate: int) -> Iterator[Window]:
    """Pieces of a waveform, float32 `(n,)` at `sample_rate` Hz, -> its windows of `length` samples.

    A rest of at most `rest` samples gets no window of its own.
    """
    held, before, at = np.zeros(0, np.float32), np.zeros(0, np.float32), 0
    for chunk in chunks:
        held = np.concatenate([held, chunk]) if len(held) else chunk
        while len(held) > length + rest:
            before, held = held[:length], held[length:]
            at += length
            yield Window(to_int16(before)[0], (at - length) / sample_rate, at / sample_rate, at / sample_rate)
    duration = (at + len(held)) / sample_rate
    if at and len(held) < length:
        last, start = np.concatenate([before[len(held) :], held]), at + len(held) - length
    else:
        last, start = repeat_pad(held, length), at
    end = min(start + length, at + len(held))
    yield Window(to_int16(last)[0], start / sample_rate, end / sample_rate, duration)


def _resampled(sound: Sound, sample_rate: int, note: Callable[[str], None]) -> Iterator[np.ndarray]:
    """All of a sound, mixed to mono at `sample_rate` Hz: float32 `(n,)`, as `soxr.resample` makes it of the whole."""
    if sound.frames == 0:
        raise DataError(NO_SAMPLES)
    resampler = soxr.ResampleStream(sound.rate, sample_rate, 1, dtype="float32")
    at, peak, ended = 0, 0.0, False
    while not ended:
        asked = min(BLOCK, sound.frames - at)
        block = sound.read(at, asked)
        if at == 0:
            if not len(block):
                raise DataError(undecodable(0.0, sound.frames / sound.rate))
            for one in [*sound.notes, *remarks(block.shape[1], sound.rate, sample_rate)]:
                note(one)
        mono = np.ascontiguousarray(mixed(block), dtype=np.float32)
        at += len(block)
        ended = len(block) < asked or at == sound.frames
        peak = max(peak, float(mono.max(initial=0.0)), -float(mono.min(initial=0.0)))
        if not (np.isfinite(mono.max(initial=0.0)) and np.isfinite(mono.min(initial=0.0))):
            raise DataError(NOT_FINITE)
        yield mono if sound.rate == sample_rate else resampler.resample_chunk(mono, last=ended)
    if sound.frames - at > sound.slack:
        note(ends_early(at / sound.rate, sound.frames / sound.rate))
    if peak < SILENCE_PEAK:
        note(SILENT)


def power(waveform: np.ndarray) -> float:
    """Mean square of int16 samples, of full scale."""
    return float(np.square(waveform, dtype=np.float64).mean()) / INT16_PEAK**2


def join(vectors: Tensor, powers: Sequence[float], windows: str) -> Tensor:
    """The vector of a clip, `(D,)`, unit norm, of its windows' `(W, D)`.

    With unit vectors v of windows 1 … W, before it is scaled to unit norm: `mean` sum(v_i) / W; `energy`
    sum(p_i v_i) / sum(p_i), p_i the window's mean square, so that pauses count little (the mean for digital silence);
    `max` the largest of v_1 … v_W in each dimension.
    """
    if len(vectors) == 1:
        return vectors[0]
    if windows == "max":
        return F.normalize(vectors.amax(dim=0), dim=0)
    weights = torch.tensor(powers if windows == "energy" and any(powers) else [1.0] * len(vectors), dtype=torch.float32)
    return F.normalize(weights / weights.sum() @ vectors, dim=0)


def join_frames(vectors: Tensor, stretches: Sequence[tuple[float, float]], seconds: float) -> Frames:
    """The frames of a clip on one time line.

    Frames of padding are left out, and those of the last window whose middle the window before has heard.

    Args:
        vectors: `(W, N, D)` of W windows.
        stretches: start and end of each, s.
        seconds: length of a window, s.
    """
    step = seconds / vectors.shape[1]
    offsets = torch.arange(vectors.shape[1], dtype=torch.float64) * step
    heard, embeddings, times = 0.0, [], []
    for window, (start, end) in zip(vectors, stretches, strict=True):
        keep = (offsets < end - start) & (start + offsets + step / 2 > heard)
        embeddings.append(window[keep])
        times.append(start + offsets[keep])
        heard = end
    return Frames(torch.cat(embeddings), torch.cat(times))

"""Sound file -> waveform: decode, mix down, crop or repeat-pad, resample."""

import io
import math
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from atr.errors import DataError

INT16_PEAK = 32767
SILENCE_PEAK = 1e-5  # -100 dB of full scale


def decode_clip(
    file: BinaryIO | str | bytes,
    seconds: float,
    sample_rate: int,
    rng: np.random.Generator | None = None,
    stereo: bool = False,
) -> tuple[np.ndarray, list[str]]:
    """Decodes the stretch of a sound file that a model listens to.

    A longer file is cropped before it is mixed down and resampled: at a random place when `rng` is given,
    at its beginning otherwise. A shorter one is repeated (`repeat_pad`).

    Args:
        file: the bytes of a sound file, a path, or an open binary file.
        seconds: length of the result in s.
        sample_rate: of the result in Hz.
        rng: chooses the crop.

    Returns:
        float32 `(seconds * sample_rate,)`, mono, and remarks about the file that a user should know.

    Raises:
        DataError: the file cannot be read, holds no samples, or holds NaN or infinite ones.
    """
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with soundfile.SoundFile(stream) as sound:
            if sound.frames == 0:
                raise DataError("holds no samples; remove it or record it again")
            wanted = math.ceil(seconds * sound.samplerate)
            if rng is not None and sound.frames > wanted:
                sound.seek(int(rng.integers(sound.frames - wanted + 1)))
            samples = sound.read(wanted, dtype="float32", always_2d=True)  # (frames, channels)
            source_rate = sound.samplerate
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise DataError(f"cannot be decoded ({error}); convert it to wav, flac, ogg, opus or mp3") from error
    return prepare_waveform(samples, source_rate, seconds, sample_rate)


def prepare_waveform(
    samples: np.ndarray, source_rate: int, seconds: float, sample_rate: int
) -> tuple[np.ndarray, list[str]]:
    """Makes decoded samples `(frames,)` or `(frames, channels)` at `source_rate` Hz into what a model hears.

    Returns and raises as `decode_clip` does; frames beyond `seconds` are cut off.
    """
    if len(samples) == 0:
        raise DataError("holds no samples; remove it or record it again")
    if not np.isfinite(samples).all():
        raise DataError("holds NaN or infinite samples; write the file again from its source")
    notes = []
    if samples.ndim == 2:
        if samples.shape[1] > 1:
            notes.append(f"{samples.shape[1]} channels mixed to mono")
        samples = samples.mean(axis=1)
    if 2 * source_rate <= sample_rate:
        notes.append(f"{source_rate} Hz resampled to {sample_rate} Hz: it holds nothing above {source_rate // 2} Hz")
    samples = samples[: math.ceil(seconds * source_rate)].astype(np.float32, copy=False)
    if source_rate != sample_rate:
        samples = soxr.resample(samples, source_rate, sample_rate)
    if np.abs(samples).max(initial=0.0) < SILENCE_PEAK:
        notes.append("is silent (peak below -100 dB): its embedding says nothing about a sound")
    return repeat_pad(samples, round(seconds * sample_rate)), notes


def repeat_pad(waveform: np.ndarray, length: int) -> np.ndarray:
    """Cuts to `length` samples, or repeats as often as it fits whole and fills up with zeros (LAION's rule).

    >>> repeat_pad(np.array([1, 2, 3]), 8)
    array([1, 2, 3, 1, 2, 3, 0, 0])
    """
    if len(waveform) >= length:
        return waveform[:length]
    repeated = np.tile(waveform, max(1, length // max(1, len(waveform))))
    return np.pad(repeated, (0, length - len(repeated)))


def to_int16(waveform: np.ndarray) -> tuple[np.ndarray, int]:
    """Quantises as CLAP does (clamp to [-1, 1], times 32767, truncate) and counts the clamped samples."""
    clipped = int(np.count_nonzero(np.abs(waveform) > 1.0))
    return (np.clip(waveform, -1.0, 1.0) * INT16_PEAK).astype(np.int16), clipped

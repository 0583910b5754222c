"""Sound file -> waveform: choose a stretch, decode it, mix down, resample, repeat-pad."""

import math
from typing import BinaryIO, NamedTuple

import numpy as np
import soxr

from atr.errors import DataError
from atr.pipeline.decode import Sound, ends_early, open_sound

INT16_PEAK = 32767
SILENCE_PEAK = 1e-5  # -100 dB of full scale
# Decoded on each side of a crop and cut off after resampling, in samples of the lower of the two rates. Measured with
# noise, 4 to 192 kHz to 16, 32 and 48 kHz: with 50 the edges are wrong by up to 2e-3, with 100 and more the difference
# from the slice of the resampled clip is float32 rounding (below 1e-6).
MARGIN = 256
NO_SAMPLES = "holds no samples; remove it or record it again"
NOT_FINITE = "holds NaN or infinite samples; write the file again from its source"
SILENT = "is silent (peak below -100 dB): its embedding says nothing about a sound"


class Stretch(NamedTuple):
    """What to decode for a crop."""

    begin: int  # frames of the file
    end: int
    lead: int  # frames after `begin` at which the crop starts
    skip: int  # the same in samples of the result


def choose_stretch(
    frames: int, source_rate: int, seconds: float, sample_rate: int, rng: np.random.Generator | None
) -> Stretch:
    """Chooses `seconds` of a file of `frames` frames at `source_rate` Hz: by `rng`, or the beginning.

    Every `down` frames (147 for 44.1 to 48 kHz) a frame coincides with one of every `up` samples of the result (160).
    A crop that starts at such a place is resampled as the whole clip would be there. (Rates with no small common
    period, such as 44 099 Hz, soxr itself resamples with a drift: the two differ by 3e-3 after 10 minutes.)
    """
    if source_rate == sample_rate:
        wanted = math.ceil(seconds * source_rate)
        start = int(rng.integers(frames - wanted + 1)) if rng is not None and frames > wanted else 0
        return Stretch(start, min(frames, start + wanted), 0, 0)
    common = math.gcd(source_rate, sample_rate)
    down, up = source_rate // common, sample_rate // common
    length = round(seconds * sample_rate)
    last = (round(frames * up / down) - length) // up
    crop = int(rng.integers(last + 1)) if rng is not None and last > 0 else 0
    margin = math.ceil(MARGIN * max(1.0, source_rate / sample_rate) / down)  # in periods
    ahead = min(crop, margin)
    end = (crop + margin) * down + math.ceil(length * down / up)
    return Stretch((crop - ahead) * down, min(frames, end), ahead * down, ahead * up)


def decode_clip(
    file: BinaryIO | str | bytes,
    seconds: float,
    sample_rate: int,
    rng: np.random.Generator | None = None,
    stereo: bool = False,
) -> tuple[np.ndarray, list[str]]:
    """Decodes the stretch of a sound file that a model listens to, and nothing else of it.

    Of a longer file this is a random place when `rng` is given, its beginning otherwise; the result equals that slice
    of the whole clip, mixed down and resampled. A shorter one is repeated (`repeat_pad`).

    Args:
        file: the bytes of a sound file, a path, or an open binary file (which is read in place).
        seconds: length of the result in s.
        sample_rate: of the result in Hz.
        rng: chooses the crop.
        stereo: keep the first two channels (mono is doubled) instead of mixing all to one.

    Returns:
        float32 `(seconds * sample_rate,)`, mono, or `(2, seconds * sample_rate)`, and remarks about the file that
        a user should know.

    Raises:
        DataError: the file cannot be read there, holds no samples, or holds NaN or infinite ones.
    """
    with open_sound(file) as sound:
        return listen(sound, seconds, sample_rate, rng, stereo)


def listen(
    sound: Sound, seconds: float, sample_rate: int, rng: np.random.Generator | None = None, stereo: bool = False
) -> tuple[np.ndarray, list[str]]:
    """`decode_clip` for a sound that is open."""
    if sound.frames == 0:
        raise DataError(NO_SAMPLES)
    stretch = choose_stretch(sound.frames, sound.rate, seconds, sample_rate, rng)
    samples = sound.read(stretch.begin, stretch.end - stretch.begin)
    promised, held = sound.frames / sound.rate, stretch.begin + len(samples)
    if len(samples) <= stretch.lead:
        raise DataError(undecodable((stretch.begin + stretch.lead) / sound.rate, promised))
    early = [ends_early(held / sound.rate, promised)] if stretch.end - held > sound.slack else []
    waveform, notes = _heard(samples, stretch.skip, sound.rate, seconds, sample_rate, stereo)
    return waveform, sound.notes + early + notes


def undecodable(place: float, promised: float) -> str:
    """The reason why nothing can be made of a file from `place` (s) on, whose header promises `promised` s."""
    return (
        f"cannot be decoded from {place:.2f} s on, though its header promises {promised:.2f} s; copy it again from "
        "its source, or convert what is left of it"
    )


def from_samples(samples: np.ndarray, rate: int) -> Sound:
    """Decoded samples, float32 `(frames,)` or `(frames, channels)` at `rate` Hz, as an open sound."""
    channels = samples.reshape(len(samples), -1 if len(samples) else 1)
    return Sound(rate, len(samples), lambda start, count: channels[start : start + count])


def prepare_waveform(
    samples: np.ndarray, source_rate: int, seconds: float, sample_rate: int
) -> tuple[np.ndarray, list[str]]:
    """Makes decoded samples `(frames,)` or `(frames, channels)` at `source_rate` Hz into what a model hears.

    Returns and raises as `decode_clip` does; what lies beyond `seconds` is cut off.
    """
    return listen(from_samples(samples, source_rate), seconds, sample_rate)


def _heard(
    samples: np.ndarray, skip: int, source_rate: int, seconds: float, sample_rate: int, stereo: bool
) -> tuple[np.ndarray, list[str]]:
    """Decoded `(frames, channels)` -> `(T,)` or `(2, T)`, without the first `skip` samples of the result."""
    length = round(seconds * sample_rate)
    notes = remarks(samples.shape[1], source_rate, sample_rate, stereo)
    rows = [samples[:, channel] for channel in range(min(2, samples.shape[1]))] if stereo else [mixed(samples)]
    rows = [np.ascontiguousarray(row, dtype=np.float32) for row in rows]
    if source_rate != sample_rate:
        rows = [soxr.resample(row, source_rate, sample_rate) for row in rows]
    rows = [row[skip : skip + length] for row in rows]
    peak = float(np.abs([extreme(row, initial=0.0) for row in rows for extreme in (np.min, np.max)]).max())
    if not math.isfinite(peak):
        raise DataError(NOT_FINITE)
    if peak < SILENCE_PEAK:
        notes.append(SILENT)
    rows = [repeat_pad(row, length) for row in rows]
    return np.stack([rows[0], rows[-1]]) if stereo else rows[0], notes


def remarks(channels: int, source_rate: int, sample_rate: int, stereo: bool = False) -> list[str]:
    """What a user should know about a sound of so many channels at `source_rate` Hz."""
    notes = []
    if channels > (2 if stereo else 1):
        use = "the first two are used" if stereo else "mixed to mono"
        notes.append(f"{channels} channels{', ' if stereo else ' '}{use}")
    if 2 * source_rate <= sample_rate:
        notes.append(f"{source_rate} Hz resampled to {sample_rate} Hz: it holds nothing above {source_rate // 2} Hz")
    return notes


def mixed(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels; adding column to column is 30 times as fast as `mean(axis=1)` over two."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    with np.errstate(invalid="ignore", over="ignore"):  # infinite samples are reported later
        mixed = samples[:, 0] + samples[:, 1]
        for channel in range(2, samples.shape[1]):
            mixed += samples[:, channel]
        return mixed / samples.shape[1]


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
    clipped = 0
    if not (waveform.max(initial=0.0) <= 1.0 and waveform.min(initial=0.0) >= -1.0):
        clipped = int(np.count_nonzero(np.abs(waveform) > 1.0))
        waveform = np.clip(waveform, -1.0, 1.0)
    quantised = np.empty(waveform.shape, np.int16)
    # Multiplies block by block into the integers: no float copy of the whole.
    return np.multiply(waveform, INT16_PEAK, out=quantised, casting="unsafe"), clipped

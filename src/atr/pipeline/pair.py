"""Pair mixing: two clips become one sound, and their captions one caption."""

import numpy as np

from atr.errors import UsageError
from atr.pipeline.audio import SILENCE_PEAK
from atr.types import Sample

FADE = 0.01  # s; where one clip follows another, so that the join does not click


class PairMix:
    """Two clips at once (`A and B`), or one after the other (`A followed by B`).

    Args:
        probability: that a clip is mixed with another one.
        level_db: the second clip is made up to so much louder or softer than the first (by their rms), dB.
        sequence: share of the mixed clips in which they follow each other; the join lies in the middle third.

    Raises:
        UsageError: a value out of range.
    """

    def __init__(self, probability: float, level_db: float = 10.0, sequence: float = 0.5) -> None:
        for name, value in (("probability", probability), ("sequence", sequence)):
            if not 0.0 <= value <= 1.0:
                raise UsageError(f"augment.mix.{name} is {value}; allowed: 0 to 1")
        if level_db < 0:
            raise UsageError(f"augment.mix.level_db is {level_db}; it must be 0 or more")
        self.probability, self.level_db, self.sequence = probability, level_db, sequence

    def __call__(self, first: Sample, second: Sample, sample_rate: int, rng: np.random.Generator) -> Sample:
        """Changes `first` into the mixture (its waveform, its single caption, its labels) and returns it."""
        level = rng.uniform(-self.level_db, self.level_db)
        if rng.random() < self.sequence:
            join = int(first.waveform.shape[-1] * rng.uniform(1 / 3, 2 / 3))
            first.waveform = after(first.waveform, second.waveform, join, round(FADE * sample_rate))
            first.captions = [joined(first.captions[0], second.captions[0], "followed by")]
        else:
            first.waveform = together(first.waveform, second.waveform, level)
            first.captions = [joined(first.captions[0], second.captions[0], "and")]
        first.labels = sorted({*first.labels, *second.labels})
        first.notes = [*first.notes, *(note for note in second.notes if note not in first.notes)]
        return first


def together(first: np.ndarray, second: np.ndarray, level_db: float) -> np.ndarray:
    """The sum of two float32 waveforms `(…, T)`, the second `level_db` dB above the first by rms.

    A silent clip (peak below -100 dB) is added as it is. The sum is made softer where it would exceed full scale.
    """
    energies = [float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) for wave in (first, second)]
    audible = all(np.abs(wave).max(initial=0.0) >= SILENCE_PEAK for wave in (first, second))
    gain = energies[0] / energies[1] * 10 ** (level_db / 20) if audible else 1.0
    mixed = first + np.float32(gain) * second
    return mixed / np.float32(max(1.0, float(np.abs(mixed).max(initial=0.0))))


def after(first: np.ndarray, second: np.ndarray, join: int, fade: int) -> np.ndarray:
    """The first `join` samples of one float32 waveform `(…, T)`, then the beginning of another, cross-faded."""
    length = first.shape[-1]
    fade = min(fade, join, length - join)
    rising = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    result = first.copy()
    result[..., join - fade : join] *= 1.0 - rising
    result[..., join - fade : join] += rising * second[..., :fade]
    result[..., join:] = second[..., fade : fade + length - join]
    return result


def joined(first: str, second: str, word: str) -> str:
    """Two captions as one sentence.

    >>> joined("A dog barks.", "Rain falls on a roof.", "followed by")
    'A dog barks followed by rain falls on a roof.'
    """
    start = second.split(" ", 1)[0]
    proper = len(start) > 1 and not start[1:].islower()  # TV, McDonald's, 1950s
    second = second if proper or start == "I" else second[:1].lower() + second[1:]
    return f"{first.rstrip(' .')} {word} {second}"

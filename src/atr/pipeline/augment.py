"""Waveform augmentation: `audiomentations` under our seed, and the two effects of the released code it lacks.

The presets are the files in `conf/augment`.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from audiomentations.core.transforms_interface import BaseWaveformTransform

from atr.errors import AtrError

Augmentation = Callable[..., np.ndarray]  # audiomentations' call: (samples, sample_rate)


def augment(waveform: np.ndarray, sample_rate: int, transform: Augmentation, seed: int) -> np.ndarray:
    """Applies `transform` to float32 `(T,)` with all its chance drawn from `seed`.

    `audiomentations` knows no generator: it draws from the global ones of `random` and `numpy`. Both are set
    for the call and put back after it.

    Raises:
        AtrError: a transform failed, changed the length, or made NaN. Nothing is swallowed.
    """
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        result = transform(samples=waveform, sample_rate=sample_rate)
    except Exception as error:
        raise AtrError(f"augmentation failed with {type(error).__name__}: {error}; check conf/augment") from error
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    if result.shape != waveform.shape or not np.isfinite(result).all():
        raise AtrError(f"augmentation made shape {result.shape} of {waveform.shape}, or NaN; check conf/augment")
    return result.astype(np.float32, copy=False)


class RelativeNoise(BaseWaveformTransform):
    """Gaussian noise whose standard deviation is a uniform share of the waveform's own.

    As `Noise` in torchaudio-augmentations 0.2.4, where the shares are called `min_snr` and `max_snr`.
    """

    supports_multichannel = True

    def __init__(self, min_share: float, max_share: float, p: float = 0.5) -> None:
        super().__init__(p)
        self.min_share = min_share
        self.max_share = max_share

    def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
        """Draws the share and the noise's seed."""
        super().randomize_parameters(samples, sample_rate)
        self.parameters: dict[str, Any]
        self.parameters["share"] = random.uniform(self.min_share, self.max_share)
        self.parameters["seed"] = random.getrandbits(32)

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Adds the noise."""
        noise = np.random.default_rng(self.parameters["seed"]).standard_normal(samples.shape, dtype=np.float32)
        return samples + np.float32(self.parameters["share"] * samples.std()) * noise


class Delay(BaseWaveformTransform):
    """One echo: `(x + factor * x delayed) / 2`, as in torchaudio-augmentations 0.2.4."""

    supports_multichannel = True

    def __init__(self, min_ms: int, max_ms: int, step_ms: int, factor: float, p: float = 0.5) -> None:
        super().__init__(p)
        self.min_ms, self.max_ms, self.step_ms = min_ms, max_ms, step_ms
        self.factor = factor

    def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
        """Draws the delay."""
        super().randomize_parameters(samples, sample_rate)
        self.parameters["delay_ms"] = random.choice(range(self.min_ms, self.max_ms + 1, self.step_ms))

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Adds the echo; the length stays."""
        offset = min(samples.shape[-1], self.parameters["delay_ms"] * sample_rate // 1000)
        delayed = np.zeros_like(samples)
        delayed[..., offset:] = samples[..., : samples.shape[-1] - offset]
        return (samples + np.float32(self.factor) * delayed) / 2

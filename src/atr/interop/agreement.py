"""What an exported model is tried on, and how far its embeddings may be from the checkpoint's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atr.errors import CheckpointError
from atr.models.clap import Clap
from atr.pipeline.audio import INT16_PEAK, repeat_pad

LEAST_COSINE = 1 - 1e-5
# Of a number in a unit vector. Measured: 1.9e-4 in `transformers` with the trained demo, 3.4e-5 and less with random
# weights, 2.9e-5 in ONNX (a pure tone, rounding in the STFT).
MOST_DIFFERENCE = 3e-4
MOST_PROBABILITY = 1e-3  # of a label; logits are up to 100 times a cosine. Measured: 6e-4 with the trained demo
CAPTIONS = [
    "a dog barks",
    "Rain falls on a tin roof while a car passes by in the distance.",
    "music",
    "the sound of an engine, and then: silence …",
    "a long caption with many words that goes on and on " * 12,  # longer than any text encoder here takes
]
LABELS = ["dog bark", "rain", "sea waves", "engine", "speech", "clock tick", "church bells", "bird song"]


@dataclass
class Agreement:
    """How an export compares with the checkpoint: smallest cosines, largest differences of a number."""

    audio_cosine: float
    text_cosine: float
    audio_difference: float
    text_difference: float
    probability: float | None = None  # largest difference of a label's probability

    def sides(self) -> list[tuple[str, float, float]]:
        """Name, smallest cosine, largest difference of each side."""
        return [
            ("audio", self.audio_cosine, self.audio_difference),
            ("text", self.text_cosine, self.text_difference),
        ]

    def lines(self) -> list[str]:
        """For the screen."""
        lines = [
            f"{name:11} cosine >= 1 - {max(0.0, 1 - cosine):.1e}, numbers differ by up to {difference:.1e}"
            for name, cosine, difference in self.sides()
        ]
        if self.probability is not None:
            lines.append(f"zero-shot   probabilities of {len(LABELS)} labels differ by up to {self.probability:.1e}")
        return lines

    def check(self, what: str) -> None:
        """Refuses an export that is another model.

        Raises:
            CheckpointError: naming what differs, and by how much.
        """
        wrong = [
            f"the {name} embeddings differ: cosine {cosine:.7f}, numbers by up to {difference:.1e}"
            for name, cosine, difference in self.sides()
            if not (cosine >= LEAST_COSINE and difference <= MOST_DIFFERENCE)  # NaN differs, too
        ]
        if self.probability is not None and not self.probability <= MOST_PROBABILITY:
            wrong.append(f"zero-shot classification differs: probabilities by up to {self.probability:.1e}")
        if wrong:
            raise CheckpointError(
                f"{what} is not the checkpoint's model, and nothing was written: {'; '.join(wrong)} (allowed: cosine "
                f">= 1 - {1 - LEAST_COSINE:.0e}, numbers by {MOST_DIFFERENCE:.0e}, probabilities by "
                f"{MOST_PROBABILITY:.0e}). Please report it with the model's config.yaml"
            )


def sounds(sample_rate: int, seconds: float) -> dict[str, np.ndarray]:
    """Generated sound, int16, at most as long as the model hears: name -> `(T,)`."""
    length = round(seconds * sample_rate)
    time, chance = np.arange(length) / sample_rate, np.random.default_rng(0)
    sweep = 50 * time + (0.45 * sample_rate - 50) / (2 * seconds) * time**2  # cycles: from 50 Hz to 0.45 of the rate
    waves = {
        "noise": chance.normal(0, 0.1, length),
        "chirp": 0.5 * np.sin(2 * np.pi * sweep),
        "tone": 0.9 * np.sin(2 * np.pi * 440 * time),
        "short": 0.3 * np.sin(2 * np.pi * 700 * time[: int(0.3 * length)]) * np.exp(-4 * time[: int(0.3 * length)]),
        "nearly silent": chance.normal(0, 2 / INT16_PEAK, length),
        "silent": np.zeros(length),
    }
    return {name: (wave.clip(-1, 1) * INT16_PEAK).astype(np.int16) for name, wave in waves.items()}


def as_float(sound: np.ndarray) -> np.ndarray:
    """int16 -> float32 in [-1, 1], the very numbers that the model's front end makes of it."""
    return sound.astype(np.float32) / np.float32(INT16_PEAK)


@torch.inference_mode()
def encode_sounds(clap: Clap, waves: Sequence[np.ndarray]) -> Tensor:
    """`(N, D)`; short ones are padded as in training."""
    length = round(clap.mel.seconds * clap.mel.sample_rate)
    return clap.encode_audio(torch.from_numpy(np.stack([repeat_pad(wave, length) for wave in waves])))


@torch.inference_mode()
def encode_captions(clap: Clap, captions: Sequence[str]) -> Tensor:
    """`(M, D)`."""
    return clap.encode_text(**clap.text.tokenizer(captions))


def least_cosine(ours: Tensor, theirs: Tensor) -> float:
    """Of rows `(N, D)` that belong together, in float64."""
    return float(torch.cosine_similarity(ours.double(), theirs.double(), dim=1).min())


def most_difference(ours: Tensor, theirs: Tensor) -> float:
    """Of two numbers at one place."""
    return float((ours.double() - theirs.double()).abs().max())

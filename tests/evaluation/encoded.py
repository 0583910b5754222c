"""Encoded sets without sounds, for what only looks at embeddings."""

from collections.abc import Sequence

import numpy as np
import torch

from atr.collection import Item
from atr.evaluation.sets import EncodedSet, EvaluationSet


def encoded(
    audio: np.ndarray,
    labels: Sequence[Sequence[str]],
    folds: Sequence[str] = (),
    sources: Sequence[str] = (),
    name: str = "set",
) -> EncodedSet:
    """Clips `NAME0000`, …; of one fold and without sources unless told."""
    count = len(labels)
    clips = EvaluationSet(
        name=name,
        items=[Item(f"{name}{row:04d}", lambda: None, 0) for row in range(count)],
        captions=[[] for _ in labels],
        labels=[list(one) for one in labels],
        titles=[""] * count,
        folds=list(folds) or ["fold1"] * count,
        sources=list(sources) or [""] * count,
        places=[],
        bad=[],
        left_out=[],
        reading=list(range(count)),
    )
    return EncodedSet(clips, torch.from_numpy(np.asarray(audio, np.float32)), "mean", [])


def blobs(
    count: int, classes: int = 3, width: int = 8, noise: float = 0.3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around a direction for each class, the same for every seed: float32 `(N, D)`, int64 `(N,)`."""
    centres = np.random.default_rng(99).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    number = np.arange(count) % classes
    points = centres[number] / np.linalg.norm(centres[number], axis=1, keepdims=True)
    points = points + noise * rng.normal(size=(count, width))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), number


def names(number: np.ndarray) -> list[list[str]]:
    """Class numbers as labels `a`, `b`, …"""
    return [["abcdefgh"[one]] for one in number]

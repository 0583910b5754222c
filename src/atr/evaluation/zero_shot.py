"""Classification by the nearest label text."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ZeroShot:
    """What a classification came to. `confusion (C, C)` counts true label (row) against predicted (column)."""

    labels: list[str]
    accuracy: float
    top5: float
    chance: float
    clips: int
    per_label: dict[str, float]
    confusion: Tensor


def zero_shot(audio: Tensor, label_text: Tensor, target: Tensor, labels: list[str]) -> ZeroShot:
    """Compares each clip with each label; the most similar label is the answer, the first one at a tie.

    Args:
        audio: `(N, D)`, label_text: `(C, D)`, both unit norm.
        target: `(N,)` int64, the true label's number.
        labels: C names.
    """
    ranked = (audio @ label_text.T).argsort(dim=1, descending=True, stable=True)  # (N, C)
    hit = ranked == target.unsqueeze(1)
    confusion = torch.zeros(len(labels), len(labels), dtype=torch.int64)
    confusion.index_put_((target, ranked[:, 0]), torch.ones_like(target), accumulate=True)
    share = confusion.diagonal() / confusion.sum(dim=1).clamp_min(1)
    return ZeroShot(
        labels=labels,
        accuracy=hit[:, 0].float().mean().item(),
        top5=hit[:, :5].any(dim=1).float().mean().item(),
        chance=1.0 / len(labels),
        clips=len(target),
        per_label={label: share[i].item() for i, label in enumerate(labels) if confusion[i].sum() > 0},
        confusion=confusion,
    )

"""The contrastive losses. All of it is float32, whatever the autocast around it.

Pairs that are no true negatives (the same caption, the same clip, …) do not count against each other: their
logit is minus infinity, or their weight 0. The diagonal always stays, and they do not become positives.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atr.types import Batch, Embeddings

Sameness = Literal["caption", "clip", "source", "label"]
MAX_LOG_SCALE = math.log(100.0)


def info_nce(audio: Tensor, text: Tensor, log_scale: Tensor, excluded: Tensor) -> Tensor:
    """Symmetric InfoNCE: the mean of both directions' cross-entropies (arXiv 2309.11500, eq. 1, sign corrected).

    Args:
        audio, text: `(B, D)`, unit norm; row i of one belongs to row i of the other.
        log_scale: scalar; logits are exp(log_scale) * cosine.
        excluded: bool `(B, B)`: pairs left out of the denominator; False on the diagonal.
    """
    logits = (log_scale.exp() * audio @ text.T).masked_fill(excluded, -torch.inf)
    target = torch.arange(len(audio), device=audio.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sigmoid_loss(audio: Tensor, text: Tensor, log_scale: Tensor, bias: Tensor, excluded: Tensor) -> Tensor:
    """Each pair on its own: match or no match (SigLIP, arXiv 2303.15343, algorithm 1).

    Arguments as for `info_nce`; `bias` is a scalar added to the logits. The sum over pairs is divided by B.
    """
    logits = log_scale.exp() * audio @ text.T + bias
    sign = 2.0 * torch.eye(len(audio), device=audio.device) - 1.0
    return -(F.logsigmoid(sign * logits) * ~excluded).sum() / len(audio)


def same_pairs(batch: Batch, by: Sequence[Sameness]) -> Tensor:
    """bool `(B, B)`: clip i and caption j share one of the properties `by`; False on the diagonal."""
    ids = {
        "caption": batch.caption_id,
        "clip": batch.clip_id,
        "source": batch.source_id,
        "label": batch.label_id,
    }
    same = torch.zeros(len(batch.clip_id), len(batch.clip_id), dtype=torch.bool, device=batch.clip_id.device)
    for name in by:
        same |= ids[name].unsqueeze(1) == ids[name].unsqueeze(0)
    return same.fill_diagonal_(False)


class InfoNCE(nn.Module):
    """`info_nce` with its learnable scale, kept between 1 and 100.

    Args:
        temperature: initial; the scale is 1 / temperature.
        exclude: which properties make a pair no negative.
    """

    def __init__(self, temperature: float = 0.07, exclude: Sequence[Sameness] = ("caption", "clip")) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1.0 / temperature)))
        self.exclude = tuple(exclude)

    def forward(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """Returns the loss, a float32 scalar."""
        with torch.autocast(embeddings.audio.device.type, enabled=False):
            excluded = same_pairs(batch, self.exclude)
            return info_nce(embeddings.audio.float(), embeddings.text.float(), self.logit_scale, excluded)

    def clamp(self) -> None:
        """To be called after each optimizer step."""
        self.logit_scale.data.clamp_(0.0, MAX_LOG_SCALE)


class SigmoidLoss(nn.Module):
    """`sigmoid_loss` with its learnable scale and bias.

    Args:
        scale, bias: initial values; SigLIP's are 10 and -10.
        exclude: which properties make a pair no negative.
    """

    def __init__(
        self, scale: float = 10.0, bias: float = -10.0, exclude: Sequence[Sameness] = ("caption", "clip")
    ) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.logit_bias = nn.Parameter(torch.tensor(bias))
        self.exclude = tuple(exclude)

    def forward(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """Returns the loss, a float32 scalar."""
        with torch.autocast(embeddings.audio.device.type, enabled=False):
            excluded = same_pairs(batch, self.exclude)
            audio, text = embeddings.audio.float(), embeddings.text.float()
            return sigmoid_loss(audio, text, self.logit_scale, self.logit_bias, excluded)

    def clamp(self) -> None:
        """To be called after each optimizer step."""
        self.logit_scale.data.clamp_(0.0, MAX_LOG_SCALE)

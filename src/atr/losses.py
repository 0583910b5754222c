"""The contrastive losses. All of it is float32, whatever the autocast around it.

Pairs that are no true negatives (the same caption, the same clip, …) do not count against each other: their
logit is minus infinity, or their weight 0. The diagonal always stays, and they do not become positives. On
several devices the batch is the global one.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
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


def info_nce_rows(audio: Tensor, text: Tensor, log_scale: Tensor, excluded: Tensor) -> Tensor:
    """What each pair adds to `info_nce`, `(B,)`: its mean is the loss."""
    logits = (log_scale.exp() * audio @ text.T).masked_fill(excluded, -torch.inf)
    return logits.logsumexp(1) / 2 + logits.logsumexp(0) / 2 - logits.diagonal()


def sigmoid_rows(audio: Tensor, text: Tensor, log_scale: Tensor, bias: Tensor, excluded: Tensor) -> Tensor:
    """What each clip adds to `sigmoid_loss`, `(B,)`: its mean is the loss."""
    logits = log_scale.exp() * audio @ text.T + bias
    sign = 2.0 * torch.eye(len(audio), device=audio.device) - 1.0
    return -(F.logsigmoid(sign * logits) * ~excluded).sum(dim=1)


def recall_rows(audio: Tensor, text: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
    """Is each one's own counterpart the nearest of the batch? bool `(B,)` twice: text -> audio, audio -> text."""
    cosine = (audio @ text.T).masked_fill(excluded, -torch.inf)
    own = torch.arange(len(audio), device=audio.device)
    return cosine.argmax(dim=0) == own, cosine.argmax(dim=1) == own


def same_pairs(batch: Batch, by: Sequence[Sameness]) -> Tensor:
    """bool `(B, B)` over the global batch: clip i and caption j share a property of `by`; False on the diagonal."""
    ids = {"caption": batch.caption_id, "clip": batch.clip_id, "source": batch.source_id, "label": batch.label_id}
    rows = len(gather(batch.clip_id))
    same = torch.zeros(rows, rows, dtype=torch.bool, device=batch.clip_id.device)
    for name in by:
        of_all = gather(ids[name])
        same |= of_all.unsqueeze(1) == of_all.unsqueeze(0)
    return same.fill_diagonal_(False)


def checked(exclude: Sequence[Sameness]) -> tuple[Sameness, ...]:
    """Refuses a property that no batch knows."""
    if unknown := [name for name in exclude if name not in get_args(Sameness)]:
        raise ValueError(f"loss.exclude names {unknown[0]!r}; allowed: {', '.join(get_args(Sameness))}")
    return tuple(exclude)


class Gather(torch.autograd.Function):
    """The rows of all ranks, in the order of the ranks; the gradient of each row goes back to its rank.

    Every rank computes the whole loss, so a row's gradient is the sum over the ranks; DDP's mean over the
    ranks then gives the gradient of one loss over the global batch.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # noqa: D102
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: D102
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(rows: Tensor) -> Tensor:
    """`(B / W, …)` of each of W ranks -> `(B, …)`; unchanged with one rank. All ranks must hold equally many."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return Gather.apply(rows) if several else rows


def global_batch(embeddings: Embeddings, batch: Batch, exclude: Sequence[Sameness]) -> tuple[Tensor, Tensor, Tensor]:
    """Audio and text of all ranks, float32 `(B, D)`, and the pairs left out, bool `(B, B)`."""
    return gather(embeddings.audio.float()), gather(embeddings.text.float()), same_pairs(batch, exclude)


class Rows(NamedTuple):
    """Each pair of a global batch on its own."""

    corpus: Tensor  # (B,) int64
    loss: Tensor  # (B,) float32
    t2a: Tensor  # (B,) bool: the own clip is the nearest one to the caption
    a2t: Tensor  # (B,) bool: the own caption is the nearest one to the clip


class InfoNCE(nn.Module):
    """`info_nce` with its learnable scale, kept between 1 and 100.

    Args:
        temperature: initial; the scale is 1 / temperature.
        exclude: which properties make a pair no negative; `label` means the same set of labels.
    """

    def __init__(self, temperature: float = 0.07, exclude: Sequence[Sameness] = ("caption", "clip")) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1.0 / temperature)))
        self.exclude = checked(exclude)

    def forward(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """Returns the loss, a float32 scalar."""
        with torch.autocast(embeddings.audio.device.type, enabled=False):
            audio, text, excluded = global_batch(embeddings, batch, self.exclude)
            return info_nce(audio, text, self.logit_scale, excluded)

    @torch.no_grad()
    def rows(self, embeddings: Embeddings, batch: Batch) -> Rows:
        """The pairs of the global batch one by one, for logging."""
        with torch.autocast(embeddings.audio.device.type, enabled=False):
            audio, text, excluded = global_batch(embeddings, batch, self.exclude)
            losses = info_nce_rows(audio, text, self.logit_scale, excluded)
            return Rows(gather(batch.corpus_id), losses, *recall_rows(audio, text, excluded))

    def clamp(self) -> None:
        """To be called after each optimizer step."""
        self.logit_scale.data.clamp_(0.0, MAX_LOG_SCALE)


class SigmoidLoss(nn.Module):
    """`sigmoid_loss` with its learnable scale and bias.

    Args:
        scale, bias: initial values; SigLIP's are 10 and -10.
        exclude: which properties make a pair no negative; `label` means the same set of labels.
    """

    def __init__(
        self, scale: float = 10.0, bias: float = -10.0, exclude: Sequence[Sameness] = ("caption", "clip")
    ) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.logit_bias = nn.Parameter(torch.tensor(bias))
        self.exclude = checked(exclude)

    def forward(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """Returns the loss, a float32 scalar."""
        with torch.autocast(embeddings.audio.device.type, enabled=False):
            audio, text, excluded = global_batch(embeddings, batch, self.exclude)
            return sigmoid_loss(audio, text, self.logit_scale, self.logit_bias, excluded)

    @torch.no_grad()
    def rows(self, embeddings: Embeddings, batch: Batch) -> Rows:
        """The pairs of the global batch one by one, for logging."""
        with torch.autocast(embeddings.audio.device.type, enabled=False):
            audio, text, excluded = global_batch(embeddings, batch, self.exclude)
            losses = sigmoid_rows(audio, text, self.logit_scale, self.logit_bias, excluded)
            return Rows(gather(batch.corpus_id), losses, *recall_rows(audio, text, excluded))

    def clamp(self) -> None:
        """To be called after each optimizer step."""
        self.logit_scale.data.clamp_(0.0, MAX_LOG_SCALE)

"""The contrastive losses. All of it is float32, whatever the autocast around it.

Pairs that are no true negatives (the same caption, the same clip, …) do not count against each other: their
logit is minus infinity, or their weight 0. The diagonal always stays, and they do not become positives.

On several devices the batch is the global one: each rank compares its own clips with the captions of all. With
`chunk`, so many clips at a time, and again in the backward pass, so that nothing of size (B, B) is ever held.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from atr.gather import gather, mean_of_ranks, place
from atr.types import Batch, Embeddings

Sameness = Literal["caption", "clip", "source", "label"]
MAX_LOG_SCALE = math.log(100.0)
LOWEST = torch.finfo(torch.float32).min  # as a logit: counts for nothing, and has a gradient where all are left out


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


class Pairs(NamedTuple):
    """The clips of this rank, b, beside the captions of all ranks, B. One rank: b == B."""

    audio: Tensor  # (b, D)
    text: Tensor  # (B, D)
    ids: Tensor  # (K, b) int64: the properties by which pairs are left out
    ids_of_all: Tensor  # (K, B)
    first: int  # the caption that belongs to the first clip
    chunk: int | None  # clips compared at once; None: all

    def own(self, of_all: Tensor) -> Tensor:
        """`(B, …)` -> `(b, …)`: what belongs to this rank's clips."""
        return of_all[self.first : self.first + len(self.audio)]

    def cosine(self) -> Tensor:
        """Of each clip and its own caption, `(b,)`."""
        return (self.audio * self.own(self.text)).sum(dim=1)

    def blocks(self, compare: Callable[..., Any]) -> list[Any]:
        """`compare(audio, excluded(), first)` of `chunk` clips at a time; each is computed again for its gradient."""

        def block(audio: Tensor, ids: Tensor, first: int) -> Any:
            return compare(audio, same_pairs(ids, self.ids_of_all, first), first)

        if self.chunk is None:
            return [block(self.audio, self.ids, self.first)]
        parts = zip(self.audio.split(self.chunk), self.ids.split(self.chunk, dim=1), strict=True)
        return [
            checkpoint(
                block, audio, ids, self.first + number * self.chunk, use_reentrant=False, preserve_rng_state=False
            )
            for number, (audio, ids) in enumerate(parts)
        ]


def info_nce_rows(pairs: Pairs, log_scale: Tensor) -> Tensor:
    """What each clip and its caption add to `info_nce`, `(b,)`: the mean over all ranks is the loss."""

    def compare(audio: Tensor, excluded: Tensor, first: int) -> tuple[Tensor, Tensor]:
        logits = (log_scale.exp() * audio @ pairs.text.T).masked_fill_(excluded, LOWEST)
        return logits.logsumexp(1), logits.logsumexp(0)

    rows, columns = zip(*pairs.blocks(compare), strict=True)
    column = gather(torch.stack(columns).logsumexp(0).unsqueeze(0)).logsumexp(0)  # (B,), from each rank's part of it
    return (torch.cat(rows) + pairs.own(column)) / 2 - log_scale.exp() * pairs.cosine()


def sigmoid_rows(pairs: Pairs, log_scale: Tensor, bias: Tensor) -> Tensor:
    """What each clip adds to `sigmoid_loss`, `(b,)`: the mean over all ranks is the loss.

    Every pair as no match; and then, for the one that is, log(1 + e^x) - x = log(1 + e^-x).
    """

    def compare(audio: Tensor, excluded: Tensor, first: int) -> Tensor:
        return F.softplus((log_scale.exp() * audio @ pairs.text.T + bias).masked_fill_(excluded, LOWEST)).sum(dim=1)

    return torch.cat(pairs.blocks(compare)) - (log_scale.exp() * pairs.cosine() + bias)


def recall_rows(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Is each one's own counterpart the nearest of the batch? bool `(b,)` twice: text -> audio, audio -> text."""

    def compare(audio: Tensor, excluded: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        cosine = (audio @ pairs.text.T).masked_fill(excluded, -torch.inf)
        best = cosine.max(dim=0)
        return cosine.argmax(dim=1), best.values, best.indices + first

    nearest, values, clips = zip(*pairs.blocks(compare), strict=True)
    of_ranks = gather(torch.stack(values)), gather(torch.stack(clips))  # (blocks, B)
    clip = of_ranks[1].gather(0, of_ranks[0].argmax(dim=0, keepdim=True)).squeeze(0)
    own = pairs.own(torch.arange(len(pairs.text), device=clip.device))
    return pairs.own(clip) == own, torch.cat(nearest) == own


def same_pairs(ids: Tensor, ids_of_all: Tensor, first: int = 0) -> Tensor:
    """bool `(b, B)`: clip `first + i` and caption j share a property; False where they belong together.

    Args:
        ids: int64 `(K, b)`, each row a property. ids_of_all: `(K, B)`.
    """
    same = torch.zeros(ids.shape[1], ids_of_all.shape[1], dtype=torch.bool, device=ids.device)
    for own, of_all in zip(ids, ids_of_all, strict=True):
        same |= own.unsqueeze(1) == of_all
    same.diagonal(first).fill_(False)
    return same


def ids_of(batch: Batch, by: Sequence[Sameness]) -> Tensor:
    """The properties `by` of a batch, int64 `(K, B)`."""
    ids = {"caption": batch.caption_id, "clip": batch.clip_id, "source": batch.source_id, "label": batch.label_id}
    return torch.stack([ids[name] for name in by]) if by else batch.clip_id.new_empty(0, len(batch.clip_id))


class Rows(NamedTuple):
    """Each pair of a global batch on its own."""

    corpus: Tensor  # (B,) int64
    loss: Tensor  # (B,) float32
    t2a: Tensor  # (B,) bool: the own clip is the nearest one to the caption
    a2t: Tensor  # (B,) bool: the own caption is the nearest one to the clip


class ContrastiveLoss(nn.Module):
    """What the losses share: the learnable scale, kept between 1 and 100, and the global batch.

    A loss has `whole(audio, text, excluded)`, which is used where all of it fits, and `by_rows(pairs)`.

    Args:
        scale: initial.
        exclude: which properties make a pair no negative; `label` means the same set of labels.
        chunk: clips that are compared with all captions at once; None: all of this device.
    """

    whole: Callable[[Tensor, Tensor, Tensor], Tensor]
    by_rows: Callable[[Pairs], Tensor]

    def __init__(self, scale: float, exclude: Sequence[Sameness], chunk: int | None) -> None:
        super().__init__()
        if unknown := [name for name in exclude if name not in get_args(Sameness)]:
            raise ValueError(f"loss.exclude names {unknown[0]!r}; allowed: {', '.join(get_args(Sameness))}")
        if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
            raise ValueError(f"loss.chunk is {chunk!r}; allowed: null, or a whole number from 1 on")
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.exclude, self.chunk = tuple(exclude), chunk

    def forward(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """Returns the loss of the global batch, a float32 scalar; its gradient is this rank's part."""
        with torch.autocast(embeddings.audio.device.type, enabled=False):
            if self.chunk is None and place()[1] == 1:
                ids = ids_of(batch, self.exclude)
                return self.whole(embeddings.audio.float(), embeddings.text.float(), same_pairs(ids, ids))
            return mean_of_ranks(self.by_rows(self.pairs(embeddings, batch)).mean())

    def pairs(self, embeddings: Embeddings, batch: Batch) -> Pairs:
        """This rank's clips and the captions of all, float32."""
        ids = ids_of(batch, self.exclude)
        audio, text = embeddings.audio.float(), gather(embeddings.text.float())
        return Pairs(audio, text, ids, gather(ids.T).T, place()[0] * len(audio), self.chunk)

    @torch.no_grad()
    def rows(self, embeddings: Embeddings, batch: Batch) -> Rows:
        """The pairs of the global batch one by one, for logging."""
        with torch.autocast(embeddings.audio.device.type, enabled=False):
            pairs = self.pairs(embeddings, batch)
            parts = batch.corpus_id, self.by_rows(pairs), *recall_rows(pairs)
            return Rows(*(gather(part) for part in parts))

    def clamp(self) -> None:
        """To be called after each optimizer step."""
        self.logit_scale.data.clamp_(0.0, MAX_LOG_SCALE)


class InfoNCE(ContrastiveLoss):
    """`info_nce` with its learnable scale.

    Args:
        temperature: initial; the scale is 1 / temperature.
        exclude, chunk: as for `ContrastiveLoss`.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        exclude: Sequence[Sameness] = ("caption", "clip"),
        chunk: int | None = None,
    ) -> None:
        super().__init__(1.0 / temperature, exclude, chunk)

    def whole(self, audio: Tensor, text: Tensor, excluded: Tensor) -> Tensor:  # noqa: D102
        return info_nce(audio, text, self.logit_scale, excluded)

    def by_rows(self, pairs: Pairs) -> Tensor:  # noqa: D102
        return info_nce_rows(pairs, self.logit_scale)


class SigmoidLoss(ContrastiveLoss):
    """`sigmoid_loss` with its learnable scale and bias.

    Args:
        scale, bias: initial values; SigLIP's are 10 and -10.
        exclude, chunk: as for `ContrastiveLoss`.
    """

    def __init__(
        self,
        scale: float = 10.0,
        bias: float = -10.0,
        exclude: Sequence[Sameness] = ("caption", "clip"),
        chunk: int | None = None,
    ) -> None:
        super().__init__(scale, exclude, chunk)
        self.logit_bias = nn.Parameter(torch.tensor(bias))

    def whole(self, audio: Tensor, text: Tensor, excluded: Tensor) -> Tensor:  # noqa: D102
        return sigmoid_loss(audio, text, self.logit_scale, self.logit_bias, excluded)

    def by_rows(self, pairs: Pairs) -> Tensor:  # noqa: D102
        return sigmoid_rows(pairs, self.logit_scale, self.logit_bias)

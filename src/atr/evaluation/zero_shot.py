"""Classification by the nearest label text: one label per clip, any of several, or a ranking of clips for each label.

Labels of equal similarity are in random order, and what counts is the expectation over that order, as in `retrieval`:
a model that gives every label the same text embedding is at chance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atr.evaluation.expected import Ranking
from atr.evaluation.places import distinct

CUTOFFS = (1, 5)


@dataclass
class ZeroShot:
    """What a classification came to.

    `confusion (C, C)` counts true label (row) against answer (column); of equally similar labels the first is the
    answer there, while the numbers are expectations.
    """

    labels: list[str]
    accuracy: float
    top5: float
    chance: float
    clips: int
    per_label: dict[str, float]
    confusion: Tensor


def zero_shot(audio: Tensor, label_text: Tensor, target: Tensor, labels: list[str]) -> ZeroShot:
    """Compares each clip with each label; the most similar label is the answer.

    Args:
        audio: `(N, D)`, label_text: `(C, D)`, both unit norm.
        target: `(N,)` int64, the true label's number.
        labels: C names.
    """
    cosine = cosines(audio, label_text)
    carried = torch.nn.functional.one_hot(target, len(labels)).bool().numpy()
    ranking = label_ranking(cosine, carried)
    first, five = (ranking.recall(k) for k in CUTOFFS)
    shares = per_class(first, carried)
    return ZeroShot(
        labels=labels,
        accuracy=float(first.mean()),
        top5=float(five.mean()),
        chance=1.0 / len(labels),
        clips=len(target),
        per_label={label: float(share) for label, share in zip(labels, shares, strict=True) if not np.isnan(share)},
        confusion=torch.from_numpy(confusion(cosine, carried)),
    )


def cosines(audio: Tensor, text: Tensor) -> np.ndarray:
    """Similarity of clips `(N, D)` and labels `(C, D)`, unit norm, on the CPU: float32 `(N, C)`.

    Equal embeddings give exactly equal rows and columns, which a product of all of them would not promise.
    """
    clips, labels = distinct(audio), distinct(text)
    return (clips.vectors @ labels.vectors.T)[clips.number][:, labels.number]


def label_ranking(cosine: np.ndarray, carried: np.ndarray) -> Ranking:
    """Where the labels that each clip carries stand among all labels; `recall(k)` is top-k.

    Args:
        cosine: `(N, C)`.
        carried: bool `(N, C)`, at least one in each row.
    """
    clip, label = np.nonzero(carried)
    others, own = cosine[clip], cosine[clip, label][:, None]
    return Ranking(clip, (others > own).sum(axis=1), (others == own).sum(axis=1))


def confusion(cosine: np.ndarray, carried: np.ndarray) -> np.ndarray:
    """Row: a label; column: an answer; int64 `(C, C)`: how many clips that carry the one were answered the other.

    The answer is the most similar label, the first one at a tie. A clip of several labels stands in several rows.
    """
    clip, label = np.nonzero(carried)
    counts = np.zeros((cosine.shape[1], cosine.shape[1]), np.int64)
    np.add.at(counts, (label, cosine.argmax(axis=1)[clip]), 1)
    return counts


def per_class(values: np.ndarray, carried: np.ndarray) -> np.ndarray:
    """The mean of the clips' values for each label, over the clips that carry it: `(C,)`, NaN where none does."""
    counts = carried.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return values @ carried / np.where(counts, counts, np.nan)


def average_precisions(cosine: np.ndarray, carried: np.ndarray) -> np.ndarray:
    """Of each label's ranking of all clips, by cosine: float64 `(C,)`; NaN for labels that no clip carries.

    The mean, over the clips that carry the label, of the share of such clips among all that are at least as similar:
    clips of equal similarity count together, as in scikit-learn's `average_precision_score`. A model that finds all
    clips equally similar has the label's share of the clips.

    Args:
        cosine: `(N, C)`. carried: bool `(N, C)`.
    """
    ones = np.ones((1, len(cosine)), np.int32)
    return precision_draws(cosine, carried, ones)[0]


def precision_draws(
    cosine: np.ndarray, carried: np.ndarray, counts: np.ndarray, on_class: Callable[[], object] = lambda: None
) -> np.ndarray:
    """`average_precisions` of resamples of the clips, of which each label's clips are sorted once: `(R, C)`.

    The copies of a clip do not count as found before or beside each other: as they are equally similar, each would
    raise the precision of the others, and the mean over resamples would lie above the clips' own number (where that is
    0.026, as for 527 labels guessed almost at random, at 0.029).

    Args:
        cosine: `(N, C)`. carried: bool `(N, C)`.
        counts: int `(R, N)`: how often each clip stands in each resample.
        on_class: is called after each label.

    Returns:
        NaN where no clip of a resample carries the label.
    """
    drawn = np.ascontiguousarray(counts.T.astype(np.int32))  # (N, R)
    result = np.full((len(counts), cosine.shape[1]), np.nan)
    for label in range(cosine.shape[1]):
        if carried[:, label].any():
            result[:, label] = _precision(cosine[:, label], carried[:, label], drawn)
        on_class()
    return result


def _precision(scores: np.ndarray, carried: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """A label's average precision in each resample `(N, R)`: `(R,)`."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # of groups of equal scores
    own = np.flatnonzero(carried[order])
    group = np.searchsorted(ends, own)  # of each clip that carries the label
    first = np.flatnonzero(np.diff(group, prepend=-1))  # of those clips, the first of its group
    number = np.cumsum(np.diff(group, prepend=-1) > 0) - 1  # of its group among theirs
    last = ends[group[first]]
    copies = drawn[order[own]]
    clips = np.add.reduceat(drawn[order[: last[-1] + 1]], [0, *(last[:-1] + 1)], axis=0)
    above = clips.cumsum(axis=0)[number] - copies + 1
    found = np.add.reduceat(copies, first, axis=0).cumsum(axis=0)[number] - copies + 1
    with np.errstate(invalid="ignore"):
        return (copies * (found / above)).sum(axis=0) / copies.sum(axis=0)

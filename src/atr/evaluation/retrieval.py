"""Text -> audio and audio -> text retrieval with any number of captions per clip."""

import math

import numpy as np
from torch import Tensor

CUTOFFS = (1, 5, 10)


def retrieval(audio: Tensor, text: Tensor, clip_of_text: Tensor) -> dict[str, float]:
    """Both directions of retrieval, as numbers named `t2a/R@1`, `a2t/mAP@10`, ….

    Each caption is a query for its clip. Each clip is a query for its captions: R@k asks whether one of them
    is among the first k; mAP@10 is the mean of (1 / captions) * sum of i / place_i, where the i-th best caption
    stands at place_i <= 10 (LAION's code leaves the places unsorted and comes out too high). Clips without a
    caption are no queries, but stay candidates.

    Candidates of equal similarity are in random order, and each number is its expectation over that order: a
    constant model is at chance. Equal captions are equally similar to everything, exactly.

    Example: clip 0 has captions 0 and 1, clip 1 has caption 2. Every caption is nearest its own clip, except
    caption 1: t2a/R@1 = 2/3. If clip 0's best captions are 0, 2, 1 and clip 1's are 2, 1, 0, then a2t/R@1 = 1 and
    a2t/mAP@10 = ((1/1 + 2/3) / 2 + 1/1) / 2 = 0.917.

    Args:
        audio: `(N, D)`, text: `(M, D)`, both unit norm, on the CPU.
        clip_of_text: `(M,)` int64, the clip each caption belongs to.
    """
    distinct, number = text.unique(dim=0, return_inverse=True)
    similarity = (distinct @ audio.T)[number].numpy()  # (M, N)
    owner = clip_of_text.numpy()
    clips = np.arange(len(audio))
    queries = {
        "t2a": [rank_query(row, clips == clip) for row, clip in zip(similarity, owner, strict=True)],
        "a2t": [rank_query(similarity[:, clip], owner == clip) for clip in np.unique(owner)],
    }
    result: dict[str, float] = {}
    for name, ranked in queries.items():
        places, recalls, precisions = (np.array(values) for values in zip(*ranked, strict=True))
        result |= {f"{name}/R@{k}": float(recalls[:, i].mean()) for i, k in enumerate(CUTOFFS)}
        result[f"{name}/mAP@10"] = float(precisions.mean())
        result[f"{name}/median_rank"] = float(math.floor(np.median(places)))
        result[f"{name}/queries"] = len(ranked)
        result[f"{name}/candidates"] = len(audio) if name == "t2a" else len(text)
    return result


def rank_query(scores: np.ndarray, relevant: np.ndarray) -> tuple[float, list[float], float]:
    """One query: expected first place (1 is best), R@k for each of `CUTOFFS`, average precision at 10.

    The expectation over the order of ties follows McSherry and Najork (DOI 10.1007/978-3-540-78646-7_38).

    Args:
        scores: `(C,)` of the candidates.
        relevant: bool `(C,)`, at least one.
    """
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))  # first place (0 is best) of each group of ties
    sizes = np.diff(starts, append=len(scores))
    hits = np.add.reduceat(relevant[order].astype(np.int64), starts)
    group = int(np.argmax(hits > 0))
    above, size, own = int(starts[group]), int(sizes[group]), int(hits[group])
    first = above + (size + 1) / (own + 1)
    recalls = [1.0 - _none_drawn(size, own, min(size, max(0, k - above))) for k in CUTOFFS]

    precision, before = 0.0, 0
    for start, size, own in zip(starts.tolist(), sizes.tolist(), hits.tolist(), strict=True):
        if start >= 10:
            break
        for offset in range(min(size, 10 - start)):
            others = offset * (own - 1) / (size - 1) if size > 1 else 0.0
            precision += own / size * (before + 1 + others) / (start + offset + 1)
        before += own
    return first, recalls, precision / int(relevant.sum())


def _none_drawn(size: int, own: int, drawn: int) -> float:
    """Probability that `drawn` of `size` candidates hold none of the `own` relevant ones."""
    return math.comb(size - own, drawn) / math.comb(size, drawn)

"""Text -> audio and audio -> text retrieval with any number of captions per clip."""

import math

import numpy as np
import torch
from torch import Tensor

CUTOFFS = (1, 5, 10)


def retrieval(audio: Tensor, text: Tensor, clip_of_text: Tensor) -> dict[str, float]:
    """Both directions of retrieval, as numbers named `t2a/R@1`, `a2t/mAP@10`, ….

    Each caption is a query for its clip. Each clip is a query for its captions: R@k asks whether one of
    them is among the first k, and mAP@10 is (1 / captions) * sum of i / rank_i over its captions within the first
    ten, the i-th best at rank_i (LAION's code forgets to sort the ranks). Clips without a caption are no
    queries, but stay candidates.

    Ties count against the query: of equal similarities the wanted one is last, so that a constant model scores 0.

    Example: two clips, captions 0 and 1 of clip 0, caption 2 of clip 1; all captions are nearest their own
    clip, except caption 1. Then t2a/R@1 = 2/3, and a2t/R@1 = 1 as each clip's best caption is caption 0 or 2.

    Args:
        audio: `(N, D)`, text: `(M, D)`, both unit norm.
        clip_of_text: `(M,)` int64, the clip each caption belongs to.
    """
    similarity = text @ audio.T  # (M, N)
    own = similarity.gather(1, clip_of_text.unsqueeze(1))  # (M, 1)
    t2a = (similarity >= own).sum(dim=1) - 1  # its own place counts once; rank 0 is best

    best, precision = [], []
    for clip in clip_of_text.unique():
        captions = (clip_of_text == clip).nonzero().squeeze(1)
        scores = similarity[captions, clip]
        wrong = similarity[clip_of_text != clip, clip]
        mates = torch.arange(len(captions))  # captions of the same clip, best first
        ranks = (wrong.unsqueeze(0) >= scores.sort(descending=True).values.unsqueeze(1)).sum(dim=1) + mates
        best.append(ranks[0])
        hits = (mates + 1) / (ranks + 1)
        precision.append(hits[ranks < 10].sum() / len(captions))
    a2t = torch.stack(best)
    result = {"t2a/mAP@10": torch.where(t2a < 10, 1.0 / (t2a + 1), 0.0).mean().item()}
    result["a2t/mAP@10"] = torch.stack(precision).mean().item()
    for name, ranks in (("t2a", t2a), ("a2t", a2t)):
        result |= {f"{name}/R@{k}": (ranks < k).float().mean().item() for k in CUTOFFS}
        result[f"{name}/median_rank"] = math.floor(np.median(ranks.numpy())) + 1.0
        result[f"{name}/queries"] = len(ranks)
        result[f"{name}/candidates"] = len(audio) if name == "t2a" else len(text)
    return result

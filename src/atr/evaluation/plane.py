"""Embeddings of clips and texts -> points of the plane."""

from dataclasses import dataclass

import numpy as np

MOST_CLIPS = 2_000  # t-SNE of them takes about 10 s on two cores
FEW_CLIPS = 50  # fewer have no neighbourhoods that t-SNE could keep
PERPLEXITY = 30.0
SEED = 0
LEAST_SPREAD = 1e-6  # of embeddings; t-SNE of equal ones, which a collapsed model gives, ends in a segmentation fault


@dataclass(frozen=True)
class Plane:
    """Where clips and texts lie.

    Attributes:
        clips: float64 `(n, 2)`. rows: which clips, int64 `(n,)`, ascending.
        texts: float64 `(m, 2)`. method: in words.
    """

    clips: np.ndarray
    rows: np.ndarray
    texts: np.ndarray
    method: str


def choose_rows(clips: int) -> np.ndarray:
    """The clips that are drawn: all, or `MOST_CLIPS` by chance with a fixed seed, int64, ascending."""
    if clips <= MOST_CLIPS:
        return np.arange(clips)
    return np.sort(np.random.default_rng(SEED).choice(clips, MOST_CLIPS, replace=False))


def project(audio: np.ndarray, text: np.ndarray) -> Plane:
    """Draws embeddings as t-SNE does (van der Maaten and Hinton 2008, jmlr.org/papers/v9/vandermaaten08a.html), or PCA
    where there are few clips.

    Clips and texts are centred first, each by their own mean: in models of this kind the two lie apart as wholes
    (arXiv 2203.02053), which a map of labels need not show. Distances between clips stay the same.

    Args:
        audio: `(N, D)`, text: `(M, D)`, both unit norm.
    """
    rows = choose_rows(len(audio))
    chosen = audio[rows].astype(np.float64)
    parts = [part - part.mean(axis=0) for part in (chosen, text.astype(np.float64)) if len(part)]
    together = np.concatenate(parts)
    points = _principal(parts[0], together)
    spread = points[:, 0].std()
    if len(rows) < FEW_CLIPS or spread < LEAST_SPREAD:
        method = "principal components of the clips"
    else:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        start = (points / spread * 1e-4).astype(np.float32)
        with threadpool_limits(1):  # its threads wait busily for each other: on shared cores two took ten times as long
            points = TSNE(perplexity=PERPLEXITY, init=start, random_state=SEED).fit_transform(together)
        method = f"t-SNE, perplexity {PERPLEXITY:.0f}, seed {SEED}"
    drawn = "all" if len(rows) == len(audio) else f"{len(rows):,} clips, drawn by chance, of"
    points = points.astype(np.float64)
    return Plane(points[: len(rows)], rows, points[len(rows) :], f"{method}; {drawn} {len(audio):,} clips")


def _principal(clips: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The first two principal components; the sign of each is such that its largest weight is positive."""
    axes = np.linalg.svd(clips, full_matrices=False)[2][:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    flat = points @ axes.T
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))

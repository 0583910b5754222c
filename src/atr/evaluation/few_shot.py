"""Classification from a few labelled clips of each class, on frozen embeddings."""

from collections.abc import Sequence

import numpy as np

SHOTS = (1, 2, 4, 8, 16)
DRAWS = 10
SEED = 0


def draw_ranks(number: np.ndarray, recordings: Sequence[str], draw: int, seed: int = SEED) -> np.ndarray:
    """A random order of each class's clips: int64 `(N,)`, the place of each clip within its class.

    The first k places are a draw of k clips, so the clips of a smaller draw are in the larger ones. Recordings are in
    random order and give one clip each before any of them gives a second.

    Args:
        number: int64 `(N,)`, the clips' classes.
        recordings: that the clips come from; as many as clips where each is one of its own.
        draw: which one; the order depends on nothing but it, `seed` and the clips.
    """
    order = np.random.default_rng([seed, draw]).permutation(len(number))
    seen: dict[tuple[int, str], int] = {}
    turns = np.zeros(len(number), np.int64)  # how many clips of its class and recording stand before a clip
    for row in order:
        key = int(number[row]), recordings[row]
        turns[row] = seen[key] = seen.get(key, -1) + 1
    places = np.zeros(len(number), np.int64)
    taken: dict[int, int] = {}
    for row in order[np.argsort(turns[order], kind="stable")]:
        places[row] = taken.get(int(number[row]), 0)
        taken[int(number[row])] = int(places[row]) + 1
    return places


def nearest_mean(train: np.ndarray, number: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """The class whose mean embedding is nearest by cosine, the first one at a tie: int64 `(M,)`.

    Prototypes of Snell et al. (arXiv 1703.05175), with cosines as the model was trained with, and nothing to train.

    Args:
        train: `(N, D)`, test: `(M, D)`, unit norm.
        number: int64 `(N,)`, each of the classes 0 … `classes` - 1 at least once.
    """
    means = np.stack([train[number == one].mean(axis=0, dtype=np.float64) for one in range(classes)])
    length = np.linalg.norm(means, axis=1, keepdims=True)
    return (test @ (means / np.maximum(length, 1e-12)).T).argmax(axis=1)


def few_shot_answers(
    train: np.ndarray,
    number: np.ndarray,
    test: np.ndarray,
    recordings: Sequence[str],
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    seed: int = SEED,
) -> dict[int, np.ndarray]:
    """Answers for test clips from k training clips of each class: k -> int64 `(draws, M)`.

    A k that is larger than the smallest class is left out.

    Args:
        train: `(N, D)`, test: `(M, D)`, unit norm.
        number: int64 `(N,)`, the classes of the training clips, each of 0 … C - 1 at least once.
        recordings: as of `draw_ranks`.
    """
    clips = np.bincount(number)
    ranks = [draw_ranks(number, recordings, draw, seed) for draw in range(draws)]
    return {
        k: np.stack([nearest_mean(train[rank < k], number[rank < k], test, len(clips)) for rank in ranks])
        for k in shots
        if k <= clips.min()
    }

"""Classification from a few labelled clips of each class, on frozen embeddings."""

from collections.abc import Sequence

import numpy as np

from atr.errors import DataError, UsageError
from atr.evaluation.bootstrap import Measured, measured, ratio, replicate
from atr.evaluation.labelled import EMBEDDINGS, labels_of_both, pair, protocol, shared, target_of
from atr.evaluation.probe import check_features, check_target
from atr.evaluation.record import POOLED, Result
from atr.evaluation.sets import EncodedSet

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


def few_shot(
    train: EncodedSet,
    test: EncodedSet,
    checkpoint: str,
    checkpoint_sha256: str,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Result:
    """Accuracy from k training clips of each class, by the nearest class mean; the mean over several draws of them.

    The k clips are of different recordings as far as there are so many and their sources are known. A k that some
    class has not enough clips for is left out, with a remark. An interval is over draws and test clips, both
    resampled: what the mean over so many draws would be on other test clips and with other draws from these training
    clips. Single draws spread more; `shown["draws"]` holds them.

    Args:
        checkpoint, checkpoint_sha256: of the model that encoded both, for the protocol.
        shots: each k. draws: of each k. seed: of the draws.

    Raises:
        DataError: as `probe_sets`, a clip has several labels, or no k is small enough.
        UsageError: a number is less than 1, or the sets were encoded in different ways.
    """
    if not shots:
        raise UsageError("no k is given; name the numbers of clips of each class, e.g. shots=[1, 2, 4]")
    if wrong := [value for value in (*shots, draws) if value < 1]:
        raise UsageError(f"shots={list(shots)}, draws={draws}: {wrong} is not allowed; each is 1 or more")
    learnt, asked = pair(train, test)
    labels, several = labels_of_both(learnt, asked)
    if several:
        raise DataError("some clips carry several labels; few-shot takes clips of one label each, a probe takes both")
    check_target(target_of(learnt.clips, labels))
    number, truth = (target_of(one.clips, labels).argmax(axis=1) for one in (learnt, asked))
    check_features(learnt.audio, asked.audio)
    answers = few_shot_answers(learnt.audio, number, asked.audio, learnt.recordings, shots, draws, seed)
    clips, scarce = np.bincount(number).min(), labels[int(np.bincount(number).argmin())]
    if not answers:
        raise DataError(f"{scarce!r} has {clips} training clips, less than the smallest of shots={list(shots)}")
    hits = {k: answer == truth for k, answer in answers.items()}
    left = [k for k in shots if k not in answers]
    remarks = [f"{', '.join(map(str, left))} shots are left out: {scarce!r} has {clips} training clips"] if left else []
    about = {"train": learnt.clips.name, "train_manifest_sha256": learnt.clips.manifest_sha256}
    settings = about | {
        "train_clips": len(learnt.clips), "embeddings": EMBEDDINGS, "classifier": "nearest class mean by cosine",
        "draws": draws, "seed": seed, "interval": "over draws and test clips",
    }  # fmt: skip
    return Result(
        protocol("few-shot", asked, checkpoint, checkpoint_sha256, settings),
        {POOLED: [_mean_over_draws(k, hit, seed) for k, hit in hits.items()]},
        {"labels": labels, "chance": 1 / len(labels),
         "draws": {str(k): hit.mean(axis=1).tolist() for k, hit in hits.items()}},
        [*learnt.remarks, *asked.remarks, *shared(learnt, asked), *remarks],
    )  # fmt: skip


def _mean_over_draws(k: int, hit: np.ndarray, seed: int) -> Measured:
    """hit: bool `(draws, M)`."""
    draws, clips = hit.shape
    (of_draws,) = replicate(clips, ratio(hit.T.astype(np.float64), np.ones(clips)))  # (resamples, draws)
    drawn = np.random.default_rng([seed, k]).multinomial(draws, np.full(draws, 1 / draws), size=len(of_draws))
    return measured(f"{k}-shot accuracy", hit.mean(), clips, (of_draws * drawn).sum(axis=1) / draws)

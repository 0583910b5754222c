"""Text -> audio and audio -> text retrieval with any number of captions per clip."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from atr.errors import DataError
from atr.evaluation.bootstrap import Measured, measured, median, ratio, replicate
from atr.evaluation.expected import Ranking
from atr.evaluation.places import distinct, find_places

CUTOFFS = (1, 5, 10, 50)
DCASE_CUTOFF = 16
Pair = tuple[int, int]  # rows of a caption and of a clip


@dataclass(frozen=True)
class Direction:
    """One way to ask: Q queries, with values of each measure.

    Attributes:
        name: `t2a`, `a2t`, or `t2a_multi` for that by a table of relevant pairs.
        clip: `(Q,)` int64, the clip each query belongs to.
        means: measure -> `(Q,)`, whose mean over the queries is the number.
        place: `(Q,)`, of the best relevant candidate.
        candidates: how many there are.
    """

    name: str
    clip: np.ndarray
    means: dict[str, np.ndarray]
    place: np.ndarray
    candidates: int


def retrieval(
    audio: Tensor,
    text: Tensor,
    clip_of_text: Tensor,
    relevant: Iterable[Pair] | None = None,
    over_ranks: bool = False,
) -> dict[str, float]:
    """Both directions of retrieval, as numbers named `t2a/R@1`, `a2t/mAP@10`, ….

    `t2a`: each caption is a query for its clip. `a2t`: each clip is a query for its captions; clips without a caption
    are no queries, but stay candidates. With `relevant`, `t2a_multi`: each caption that stands in it is a query for
    the clips that it names, and for no other, not even its own (of DCASE 2025's table, 4 % of the captions do without).

    * R@k, k = 1, 5, 10, 50: is one of the relevant candidates among the first k?
    * mAP@10: mean of (1 / relevant) * sum of i / place_i, where the i-th best relevant candidate stands at
      place_i <= 10. So in mteb, WavCaps and AudioSetCaps.
    * mAP@10_laion (`a2t` only; with one relevant candidate both are the same): captions are counted in the order they
      are given in, not best first. So in LAION-CLAP, whose numbers are higher: captions at places 5 and 1, the other
      three beyond 10, give 2.2 / 5 instead of 1.4 / 5.
    * mAP@16 (`t2a_multi` only): as mAP@10. By it DCASE 2025 task 6 ranks; it divides by all relevant clips as its
      baseline's code does, and as no caption of its development table has more than 12, dividing by 16 at most is the
      same. What the organisers did on the evaluation set is not published as code.
    * median_rank (rounded down) and mean_rank: of the best relevant candidate, 1 is first.

    Candidates of equal similarity are in random order, and each number is its expectation over that order: a
    constant model is at chance. Equal embeddings are equally similar to everything, exactly; about those that differ
    less than the rounding of float32 see `find_places`. The order of the clips changes nothing.

    Example: clip 0 has captions 0 and 1, clip 1 has caption 2. Every caption is nearest its own clip, except
    caption 1: t2a/R@1 = 2/3. If clip 0's best captions are 0, 2, 1 and clip 1's are 2, 1, 0, then a2t/R@1 = 1 and
    a2t/mAP@10 = ((1/1 + 2/3) / 2 + 1/1) / 2 = 0.917.

    Time grows as N * M. Memory is that of a copy of the embeddings and of a block of similarities (64 MiB).

    Args:
        audio: `(N, D)`, text: `(M, D)`, both unit norm, on the CPU.
        clip_of_text: `(M,)` int64, the clip each caption belongs to.
        relevant: rows of captions and of clips that fit them; of a pair that comes twice, one counts.
        over_ranks: all ranks of `torch.distributed` call this with the same arguments; each scores its share of the
            queries, and each returns the same numbers, which are those of one rank.

    Raises:
        DataError: there is no clip or no caption, an embedding is not finite, or shapes or rows do not fit.
    """
    result: dict[str, float] = {}
    for asked in directions(audio, text, clip_of_text, relevant, over_ranks):
        result |= {f"{asked.name}/{measure}": value for measure, value in _values(asked).items()}
        result[f"{asked.name}/queries"] = len(asked.clip)
        result[f"{asked.name}/candidates"] = asked.candidates
    return result


def measure_retrieval(
    audio: Tensor,
    text: Tensor,
    clip_of_text: Tensor,
    ids: Sequence[str],
    relevant: Iterable[Pair] | None = None,
    over_ranks: bool = False,
) -> list[Measured]:
    """The numbers of `retrieval` with 95 % intervals; see there.

    Clips are drawn, each with all its captions, among those that have a query. The candidates stay the same: an
    interval tells about other queries to these candidates, not about a larger or smaller set.

    Args:
        ids: of the N clips, each once: they are drawn in the order of their ids, which pairs the resamples of models.

    Raises:
        DataError: also when two clips have one id.
    """
    check_ids(ids, len(audio))
    by_id = np.argsort(np.argsort(np.array(ids, dtype=np.str_), kind="stable"), kind="stable")
    found: list[Measured] = []
    for asked in directions(audio, text, clip_of_text, relevant, over_ranks):
        used, item = np.unique(by_id[asked.clip], return_inverse=True)
        names = [*asked.means, "mean_rank"]
        sums = np.stack([np.bincount(item, x) for x in (*asked.means.values(), asked.place)], axis=1)
        means, middle = replicate(len(used), ratio(sums, np.bincount(item)), median(asked.place, item))
        replicates = dict(zip(names, means.T, strict=True)) | {"median_rank": np.floor(middle)}
        values = _values(asked)
        found += [measured(f"{asked.name}/{one}", values[one], len(used), replicates[one]) for one in values]
    return found


def directions(
    audio: Tensor, text: Tensor, clip_of_text: Tensor, relevant: Iterable[Pair] | None, over_ranks: bool
) -> Iterator[Direction]:
    """Both directions, and the one by the table where there is one, with the values of each query."""
    check_embeddings(audio, text, clip_of_text)
    owner, clips, captions = clip_of_text.numpy(), distinct(audio), distinct(text)
    rows = np.arange(len(text))
    ranking = Ranking(rows, *find_places(captions, clips, rows, owner, over_ranks))
    yield _direction("t2a", owner, ranking, len(audio))
    by_clip = np.argsort(owner, kind="stable")
    queries, query = np.unique(owner[by_clip], return_inverse=True)
    ranking = Ranking(query, *find_places(clips, captions, owner[by_clip], by_clip, over_ranks))
    yield _direction("a2t", queries, ranking, len(text))
    if relevant is not None:
        pairs = _pairs(relevant, len(text), len(audio))
        queries, query = np.unique(pairs[:, 0], return_inverse=True)
        ranking = Ranking(query, *find_places(captions, clips, pairs[:, 0], pairs[:, 1], over_ranks))
        yield _direction("t2a_multi", owner[queries], ranking, len(audio))


def _direction(name: str, clip: np.ndarray, ranking: Ranking, candidates: int) -> Direction:
    means = {f"R@{k}": ranking.recall(k) for k in CUTOFFS} | {"mAP@10": ranking.average_precision(10)}
    if name == "a2t":
        means["mAP@10_laion"] = ranking.average_precision_laion(10)
    if name == "t2a_multi":
        means[f"mAP@{DCASE_CUTOFF}"] = ranking.average_precision(DCASE_CUTOFF)
    return Direction(name, clip, means, ranking.first_place(), candidates)


def _values(asked: Direction) -> dict[str, float]:
    """The numbers themselves. `fsum` is exact, so the order of the queries does not show in them."""
    values = {name: math.fsum(of_query) / len(of_query) for name, of_query in asked.means.items()}
    middle = float(math.floor(np.median(asked.place)))
    return values | {"median_rank": middle, "mean_rank": math.fsum(asked.place) / len(asked.place)}


def _pairs(relevant: Iterable[Pair], captions: int, clips: int) -> np.ndarray:
    """The distinct pairs in order, int64 `(P, 2)`."""
    pairs = np.unique(np.array(list(relevant), np.int64).reshape(-1, 2), axis=0)
    if not len(pairs):
        raise DataError("the table of relevant pairs is empty; give none, or one with a pair at least")
    for column, count, what in ((0, captions, "caption"), (1, clips, "clip")):
        if len(wrong := pairs[(pairs[:, column] < 0) | (pairs[:, column] >= count), column]):
            raise DataError(f"the table of relevant pairs names {what} {wrong[0]}; allowed: 0 to {count - 1}")
    return pairs


def check_embeddings(audio: Tensor, text: Tensor, clip_of_text: Tensor) -> None:
    """Refuses what no retrieval can be measured on.

    Raises:
        DataError: naming the array, the row, what was found and what is allowed.
    """
    for name, what, rows in (("audio", "clip", audio), ("text", "caption", text)):
        if rows.ndim != 2 or 0 in rows.shape:
            raise DataError(
                f"{name} has shape {tuple(rows.shape)}; allowed: a row a {what}, one at least: no number is given"
            )
        if bad := (~rows.isfinite().all(dim=1)).nonzero().flatten().tolist():
            raise DataError(
                f"the embedding of {what} {bad[0]} is NaN or infinite ({len(bad)} of {len(rows)} are); the model is "
                "broken (training diverged?): no numbers are given"
            )
    if audio.shape[1] != text.shape[1]:
        raise DataError(f"audio is {audio.shape[1]} wide, text {text.shape[1]}; both must come from one model")
    if clip_of_text.shape != text.shape[:1]:
        raise DataError(
            f"clip_of_text has shape {tuple(clip_of_text.shape)}; allowed: ({len(text)},), the clip of each caption"
        )
    if len(wrong := clip_of_text[(clip_of_text < 0) | (clip_of_text >= len(audio))]):
        raise DataError(f"clip_of_text names clip {int(wrong[0])}; allowed: 0 to {len(audio) - 1}")


def check_ids(ids: Sequence[str], clips: int) -> None:
    """Refuses ids that do not name each clip.

    Raises:
        DataError: there are more or fewer, or two clips have one; it is named.
    """
    if len(ids) != clips:
        raise DataError(f"there are {len(ids)} ids for {clips} clips; give one for each")
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise DataError(f"two clips have the id {one!r}; each clip must come once, under an id of its own")
        seen.add(one)

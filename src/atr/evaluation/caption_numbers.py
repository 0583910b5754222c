"""Captions and references -> numbers with 95 % intervals, and the controls that belong beside them."""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from atr.errors import DataError
from atr.evaluation import bootstrap, ngrams
from atr.evaluation.bootstrap import Measured, Statistic, ratio
from atr.evaluation.captioning import CaptionMetric, score_captions
from atr.evaluation.keywords import named
from atr.evaluation.record import Result

SEED = 0  # of the control that deals captions to other clips
SHOWN = 3  # labels in a message


@dataclass
class CaptionNumbers:
    """What captions came to.

    Attributes:
        rows: metrics, then controls.
        notes: metric -> what its number must be read with, e.g. the encoder's name.
        remarks: what could not be measured, and how to get it.
    """

    rows: list[Measured]
    notes: dict[str, str]
    remarks: list[str] = field(default_factory=list)


def measure_captions(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], clap: np.ndarray | None = None
) -> CaptionNumbers:
    """All metrics of `score_captions` with intervals, then `distinct` and `cider_d_shuffled`.

    An interval is over resamples of the clips. Of metrics that are means over clips it is that of the mean, CIDEr-D's
    n-gram weights being those of the whole set. BLEU is made anew from the counts of each resample. METEOR is made of
    counts that its program keeps to itself: its interval is that of the mean of the clips' scores, moved to the set's
    score. `distinct` (the share of different captions) and `vocabulary` count a caption or a word that stands on k
    clips as 1/k on each: a resample repeats clips, and has fewer different captions than as many other clips would.

    `cider_d_shuffled` is CIDEr-D when each clip has another clip's caption (`dealt`). A caption depends on the sound
    alone, so this is what a captioner gives when it hears the sounds in another order: what is gained by writing in
    the style of the references, without listening.

    Args:
        predictions: id -> caption, ordered by id, so that differences between captioners are paired.
        references: id -> one or more captions; the same ids.
        clap: `(N,)` of `clap_score`.

    Raises:
        DataError, CheckpointError: see `score_captions`.
    """
    metrics = score_captions(predictions, references, clap=clap)
    given = list(predictions.values())
    words = [ngrams.tokenise(caption) for caption in given]
    own = [[ngrams.tokenise(caption) for caption in references[clip]] for clip in predictions]
    rows = _with_intervals(metrics, words, own)
    rows.append(mean_row("distinct", shares([[caption] for caption in given])))
    found = CaptionNumbers(
        rows,
        {one.name: one.note for one in metrics if one.note},
        [f"{one.name}: {one.missing}" for one in metrics if one.value is None],
    )
    if len(given) > 1:
        other = [words[row] for row in dealt(len(words))]
        found.rows.append(mean_row("cider_d_shuffled", ngrams.cider_d(other, own)))
    return found


@dataclass(frozen=True)
class Written:
    """A captioner's caption of a clip, and the clip's references."""

    caption: str
    references: list[str]


def read_written(result: Result) -> dict[str, Written]:
    """The captions that a result shows, by id; none where it is of another task.

    Raises:
        DataError: they are damaged.
    """
    try:
        found = {}
        for one in result.shown.get("captions", []):
            texts = [one["id"], one["caption"], *one["references"]]
            if not all(isinstance(text, str) for text in texts) or not isinstance(one["references"], list):
                raise ValueError(f"{one!r:.80} is no caption with references")
            found[one["id"]] = Written(one["caption"], list(one["references"]))
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the captions of {result.protocol.task} on {result.protocol.dataset} are damaged "
            f"({type(error).__name__}: {error}); measure it again with `atr eval captioning`"
        ) from error


def copies_row(captions: Sequence[str], known: Collection[tuple[str, ...]]) -> Measured:
    """`copies`: the share of captions that have the words of a known one, in its order.

    Args:
        known: as `ngrams.tokenise` gives them.
    """
    return mean_row("copies", np.array([float(tuple(ngrams.tokenise(one)) in known) for one in captions]))


def label_rows(
    captions: Sequence[str], labels: Sequence[Sequence[str]], keywords: Mapping[str, set[str]]
) -> list[Measured]:
    """`names_label`: the share of captions that name the label of their clip and no other (`share_named`).

    `names_label_shuffled`: the same when each clip has another clip's caption (`dealt`).

    Args:
        labels: of each clip; those with none or several do not count. Empty list where no clip has one.

    Raises:
        DataError: a label has no keywords.
    """
    check_keywords({label for own in labels for label in own}, keywords)
    rows = [row for row, own in enumerate(labels) if len(own) == 1]
    if not rows:
        return []
    said, true = [captions[row] for row in rows], [labels[row][0] for row in rows]
    found = [_named_row("names_label", said, true, keywords)]
    if len(said) > 1:
        other = [said[row] for row in dealt(len(said))]
        found.append(_named_row("names_label_shuffled", other, true, keywords))
    return found


def _named_row(name: str, captions: Sequence[str], labels: Sequence[str], keywords: Mapping[str, set[str]]) -> Measured:
    right = [float(named(text, keywords) == {label}) for text, label in zip(captions, labels, strict=True)]
    return mean_row(name, np.array(right))


def check_keywords(labels: Collection[str], keywords: Mapping[str, set[str]]) -> None:
    """Refuses labels without keywords.

    Raises:
        DataError: naming them.
    """
    if without := sorted(set(labels) - keywords.keys()):
        more = ", …" if len(without) > SHOWN else ""
        raise DataError(
            f"{len(without)} labels of the clips have no keywords ({', '.join(without[:SHOWN])}{more}); the file has "
            f"{', '.join(sorted(keywords)) or 'none'}: add a line for each, or leave the keywords out"
        )


def dealt(count: int) -> list[int]:
    """For each of `count` clips, 2 or more, the clip whose caption it gets: a fixed permutation, never its own.

    Clips may get the caption of one of the same class.
    """
    order = np.random.default_rng([SEED, count]).permutation(count)
    other = np.empty(count, int)
    other[order] = np.roll(order, 1)
    return [int(row) for row in other]


def mean_row(name: str, per_item: np.ndarray) -> Measured:
    """The mean over clips with its interval.

    Args:
        per_item: `(N,)`.
    """
    n = len(per_item)
    (replicates,) = bootstrap.replicate(n, ratio(per_item, np.ones(n)))
    return bootstrap.measured(name, per_item.mean(), n, replicates)


def shares(things: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """How much each row adds to the number of different things, one that stands in k rows being 1/k of each: `(N,)`.

    >>> shares([["a", "b"], ["b", "b"]]).tolist()
    [1.5, 0.5]
    """
    rows = [set(one) for one in things]
    with_it = Counter(thing for one in rows for thing in one)
    return np.array([sum(1 / with_it[thing] for thing in one) for one in rows])


def _with_intervals(
    metrics: Sequence[CaptionMetric], words: Sequence[ngrams.Words], references: Sequence[Sequence[ngrams.Words]]
) -> list[Measured]:
    """A row for each metric that has a value."""
    n = len(words)
    there = [one for one in metrics if one.value is not None]
    statistics = [_bleu(words, references), *(ratio(_per_item(one, words), np.ones(n)) for one in there)]
    bleu, *others = bootstrap.replicate(n, *statistics)
    rows = []
    for one, replicates in zip(there, others, strict=True):
        assert one.value is not None
        if one.name.startswith("bleu_"):
            replicates = bleu[:, int(one.name.removeprefix("bleu_")) - 1]
        elif one.name == "meteor":
            replicates = replicates + (one.value - _per_item(one, words).mean())
        rows.append(bootstrap.measured(one.name, one.value, n, replicates))
    return rows


def _bleu(words: Sequence[ngrams.Words], references: Sequence[Sequence[ngrams.Words]]) -> Statistic:
    """BLEU-1 to BLEU-4 of resamples: `(C, N)` -> `(C, 4)`."""
    counts = ngrams.bleu_counts(words, references)
    return lambda weights: ngrams.bleu_of(ngrams.BleuCounts(*(weights @ numbers for numbers in counts)))


def _per_item(metric: CaptionMetric, words: Sequence[ngrams.Words]) -> np.ndarray:
    if metric.name == "vocabulary":
        return shares(words) * len(words)
    assert metric.per_item is not None, metric.name
    return metric.per_item

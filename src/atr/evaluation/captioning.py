"""All metrics of a captioner: predictions against references, as rows that hold a number or say what is missing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atr.datasets.environment import names_environment
from atr.datasets.tables import read_table
from atr.errors import DataError
from atr.evaluation import java_metrics, ngrams, sentences
from atr.types import BadSample

_SHOWN = 3  # examples in a message


@dataclass(frozen=True)
class CaptionMetric:
    """One metric of a set of captions.

    Args:
        name: e.g. `bleu_4`, `cider_d`.
        value: of the whole set; None when it could not be computed.
        per_item: `(N,)` float64 in the order of the predictions, or None where a clip alone has no such number.
        missing: why there is no value, and how to get one.
        note: what a number must be read with, e.g. the encoder's name.
    """

    name: str
    value: float | None
    per_item: np.ndarray | None = None
    missing: str = ""
    note: str = ""


def read_pair(predictions: Path, references: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The captions of a csv file of predictions and of one of references, as `score_captions` takes them.

    Raises:
        DataError: a file cannot be read, lacks a column or has a damaged row; an id or a caption is empty; an id is
            twice in the predictions; an id is in one file only.
    """
    predicted = read_captions(predictions)
    if twice := [clip for clip, captions in predicted.items() if len(captions) > 1]:
        raise DataError(f"{predictions}: {_several(twice, 'id')} twice; a clip has one prediction, keep one row")
    one, many = {clip: captions[0] for clip, captions in predicted.items()}, read_captions(references)
    _check(one, many, str(predictions), str(references))
    return one, many


def read_captions(path: Path) -> dict[str, list[str]]:
    """The captions of each id of a csv file with the columns `id` and `caption`, in the order of the file.

    Raises:
        DataError: the file cannot be read, lacks a column or has no row; a row is damaged, or has no id or no words.
    """
    captions: dict[str, list[str]] = {}
    bad = []
    for row in read_table(path, ["id", "caption"]):
        if isinstance(row, BadSample):
            bad.append(f"{row.key} ({row.reason})")
        elif not row["id"]:
            bad.append(f"{row.where} (no id)")
        elif not ngrams.tokenise(row["caption"]):
            bad.append(f"{row.where} (the caption of {row['id']!r} has no word: {row['caption']!r})")
        else:
            captions.setdefault(row["id"], []).append(row["caption"])
    if bad:
        shown = "; ".join(bad[:_SHOWN])
        raise DataError(
            f"{path}: {len(bad)} rows cannot be used: {shown}. Correct them: no number is given without them"
        )
    if not captions:
        raise DataError(f"{path} has no row; it needs the columns id and caption and a row per caption")
    return captions


def score_captions(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    clap: np.ndarray | None = None,
    encoder: Path | None = None,
    fense: Path | None = None,
    spice: Path | None = None,
) -> list[CaptionMetric]:
    """All metrics of a set. SPIDEr has a row only where both its parts have a number.

    BLEU, ROUGE-L, CIDEr-D, METEOR and SPICE are of the words of `ngrams.tokenise`; the others are of whole captions.

    Args:
        predictions: id -> caption.
        references: id -> one or more captions; the same ids.
        clap: `(N,)` of `clap_score`, in the order of the predictions, where the clips' sounds are known.
        encoder: folder of a Sentence-BERT model; when None, see `sentences.encoder_folder`.
        fense: folder with FENSE's models, see `sentences.fense_missing`.
        spice: folder with the jars of Stanford CoreNLP, see `java_metrics.spice`.

    Raises:
        DataError: there are no predictions, an id is in one of the two only, or a caption has no words.
        CheckpointError: files of the sentence encoder or of FENSE are damaged.
    """
    _check(predictions, references, "the predictions", "the references")
    given = list(predictions.values())
    own = [list(references[clip]) for clip in predictions]
    words = [ngrams.tokenise(caption) for caption in given]
    own_words = [[ngrams.tokenise(caption) for caption in captions] for captions in own]
    return [
        *(counted := list(_counting(words, own_words))),
        *_java(words, own_words, counted[-1].per_item, spice),
        *_encoded(given, own, encoder, fense),
        _vocabulary(words, own_words),
        _mean("environment", np.array([float(names_environment(caption)) for caption in given])),
        CaptionMetric("clap_score", None, missing="needs the clips' sounds and a contrastive checkpoint")
        if clap is None
        else _mean("clap_score", clap),
    ]


def clap_score(audio: np.ndarray, text: np.ndarray) -> np.ndarray:
    """The cosine of each clip's embedding and its predicted caption's, by one contrastive model.

    >>> clap_score(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [0.6, 1.0]

    Args:
        audio, text: `(N, D)`, any length but 0.

    Returns:
        `(N,)` float64.

    Raises:
        DataError: the shapes differ, or a row is zero or not finite.
    """
    if audio.shape != text.shape or audio.ndim != 2:
        raise DataError(f"audio {audio.shape} and text {text.shape} are no two (N, D) of the same shape")
    first, second = audio.astype(np.float64), text.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    if bad := np.flatnonzero(~np.isfinite(lengths) | (lengths == 0)).tolist():
        raise DataError(
            f"{len(bad)} of {len(audio)} embeddings are zero or not finite, e.g. row {bad[0]}; is the model broken?"
        )
    return (first * second).sum(axis=1) / lengths


def spider(cider_d: np.ndarray, spice: np.ndarray) -> np.ndarray:
    """SPIDEr (Liu et al. 2017, arXiv:1612.00370) of each clip, `(N,)`: the mean of CIDEr-D and SPICE."""
    return (cider_d + spice) / 2


def _counting(words: Sequence[ngrams.Words], references: Sequence[Sequence[ngrams.Words]]) -> Iterator[CaptionMetric]:
    """BLEU, ROUGE-L and CIDEr-D."""
    together, each = ngrams.bleu(words, references)
    for order in range(ngrams.ORDERS):
        yield CaptionMetric(f"bleu_{order + 1}", float(together[order]), each[:, order])
    yield _mean("rouge_l", ngrams.rouge_l(words, references))
    if len(words) > 1:
        yield _mean("cider_d", ngrams.cider_d(words, references))
    else:
        yield CaptionMetric("cider_d", None, missing="in a set of one clip every n-gram weighs log(1/1) = 0; give more")


def _java(
    words: Sequence[ngrams.Words],
    references: Sequence[Sequence[ngrams.Words]],
    cider_d: np.ndarray | None,
    folder: Path | None,
) -> Iterator[CaptionMetric]:
    """METEOR, SPICE and, with CIDEr-D, SPIDEr."""
    if reason := java_metrics.meteor_missing():
        yield CaptionMetric("meteor", None, missing=reason)
    else:
        try:
            yield CaptionMetric("meteor", *java_metrics.meteor(words, references))
        except DataError as error:  # a Java that does not start; the other numbers do not need it
            yield CaptionMetric("meteor", None, missing=str(error))
    if reason := java_metrics.spice_missing(folder):
        yield CaptionMetric("spice", None, missing=reason)
        return
    try:
        spice = java_metrics.spice(words, references, folder)
    except DataError as error:
        yield CaptionMetric("spice", None, missing=str(error))
        return
    yield _mean("spice", spice)
    if cider_d is not None:
        yield _mean("spider", spider(cider_d, spice))


def _encoded(
    given: Sequence[str], references: Sequence[Sequence[str]], encoder: Path | None, fense: Path | None
) -> Iterator[CaptionMetric]:
    """Sentence-BERT similarity and FENSE."""
    folder, models = sentences.encoder_folder(encoder, fense), sentences.fense_folder(fense)
    similarity = np.zeros(0)
    if folder is None:
        yield CaptionMetric("sentence_bert", None, missing=sentences.ENCODER_MISSING)
    else:
        model = sentences.SentenceEncoder(folder)
        similarity = sentences.sentence_similarity(model, given, references)
        yield _mean("sentence_bert", similarity, model.name)
    reason = sentences.fense_missing(fense)
    if reason or models is None:
        yield CaptionMetric("fense", None, missing=reason)
        return
    own = models / sentences.FENSE_ENCODER
    if folder != own:
        similarity = sentences.sentence_similarity(sentences.SentenceEncoder(own), given, references)
    probability = sentences.FluencyDetector(models).error_probability(given)
    yield _mean("fense", sentences.fense(similarity, probability), own.name)


def _vocabulary(words: Sequence[ngrams.Words], references: Sequence[Sequence[ngrams.Words]]) -> CaptionMetric:
    own = ngrams.vocabulary(caption for captions in references for caption in captions)
    return CaptionMetric(
        "vocabulary", float(ngrams.vocabulary(words)), note=f"different words; the references have {own}"
    )


def _mean(name: str, per_item: np.ndarray, note: str = "") -> CaptionMetric:
    return CaptionMetric(name, float(per_item.mean()), per_item, note=note)


def _check(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], their_name: str, other_name: str
) -> None:
    """Every prediction has words and references with words, and the other way round."""
    if not predictions:
        raise DataError(f"{their_name} hold no caption")
    without = [clip for clip in predictions if not references.get(clip)]
    if len(without) == len(predictions):
        raise DataError(
            f"no id of {their_name} is in {other_name}: the first are {next(iter(predictions))!r} there and "
            f"{next(iter(references), 'none')!r} here; write the ids in the same way in both"
        )
    if without:
        raise DataError(f"{_several(without, 'id')} of {their_name} without a caption in {other_name}; add them there")
    if unmet := [clip for clip in references if clip not in predictions]:
        raise DataError(
            f"{_several(unmet, 'id')} of {other_name} without a prediction in {their_name}; a score of the others "
            "alone would not be the set's: predict them, or remove them from the references"
        )
    empty = [clip for clip, caption in predictions.items() if not ngrams.tokenise(caption)]
    empty += [clip for clip, captions in references.items() if not all(map(ngrams.tokenise, captions))]
    if empty:
        raise DataError(f"{_several(empty, 'id')} with a caption that has no word; every caption needs one")


def _several(names: Sequence[str], what: str) -> str:
    """`id 'a'`, or `5 ids ('a', 'b', 'c', …)`."""
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return (
        f"{what} {shown}"
        if len(names) == 1
        else f"{len(names)} {what}s ({shown}{', …' if len(names) > _SHOWN else ''})"
    )

"""Caption metrics that count words: BLEU, ROUGE-L, CIDEr-D, vocabulary. Plain arithmetic on lists of words.

They give what the COCO caption tools and aac-metrics give for the same words; `tokenise` says which words those are.
In all functions `candidates` holds one caption per clip and `references` one or more per clip, as lists of words.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

Words = Sequence[str]
ORDERS = 4  # the longest n-gram of BLEU and CIDEr-D
_WORD = re.compile(r"[^\W_]+(?:'(?:s|t|re|ve|ll|d|m)\b)?")
_TINY, _SMALL = 1e-15, 1e-9  # in BLEU's numerators and denominators, so that there is no 0/0


def tokenise(caption: str) -> list[str]:
    """The words of a caption: lower case, no punctuation, hyphens taken apart, an English ending kept in its word.

    >>> tokenise("A woman’s high-pitched voice, then (faint) clapping!")
    ['a', "woman's", 'high', 'pitched', 'voice', 'then', 'faint', 'clapping']

    The per-item scores of 912 predictions for AudioCaps that the tests reproduce were made from these words. The Penn
    Treebank tokeniser of the COCO tools (Java) differs in captions with an apostrophe (it makes `woman 's`), a hyphen
    (`high-pitched` stays one word), brackets (they become the words `-lrb-` and `-rrb-`), a slash, a point inside a
    number, an abbreviation or two sentences with no blank (`3.5`, `p.a.`, `speed.and` stay one word), with other signs
    (`&`, `%`, `$` are words of their own), and in `cannot`, `gonna` and their like, which it takes apart: in 1.5 % of
    AudioCaps' captions and less than 0.1 % of Clotho's.
    """
    return _WORD.findall(caption.lower().replace("’", "'"))


def vocabulary(captions: Iterable[Words]) -> int:
    """The number of different words.

    >>> vocabulary([["a", "dog", "barks"], ["a", "dog", "howls"]])
    4
    """
    return len({word for caption in captions for word in caption})


def bleu(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[np.ndarray, np.ndarray]:
    """BLEU-1 to BLEU-4 (Papineni et al. 2002, DOI 10.3115/1073083.1073135), of the set and of each clip.

    The score of the set adds up the counts of all clips first: it is not the mean of the clips' scores. A candidate's
    length is measured against that of the reference closest to it in length, the shorter one of two equally close ones.
    Nothing is smoothed: a clip that shares no 4-gram with its references has a BLEU-4 of 2e-4 at most. One that has no
    4-gram, because it is too short, gets (1e-15 / 1e-9)^(1/4) = 0.03 of the rest from what keeps 0/0 away; both are as
    in the COCO tools.

    Example: candidate `a dog barks`, reference `a dog barks loudly`. All n-grams up to 3 are found, so the score before
    the penalty is 1; the penalty is exp(1 - 4/3) = 0.717 = BLEU-1 = BLEU-2 = BLEU-3.

    Returns:
        `(4,)` float64 of the set, and `(N, 4)` float64 of the clips.
    """
    counts = bleu_counts(candidates, references)
    together = BleuCounts(*(numbers.sum(axis=0, keepdims=True) for numbers in counts))
    return bleu_of(together)[0], bleu_of(counts)


class BleuCounts(NamedTuple):
    """What BLEU is made of, float64; counts of several clips add up.

    Attributes:
        found: `(N, 4)`, n-grams of a candidate that a reference has, each as often at most as one reference has it.
        possible: `(N, 4)`, n-grams of a candidate.
        lengths: `(N,)`, words of a candidate. closest: `(N,)`, words of the reference closest to it in length.
    """

    found: np.ndarray
    possible: np.ndarray
    lengths: np.ndarray
    closest: np.ndarray


def bleu_counts(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> BleuCounts:
    """The counts of each clip, of which `bleu_of` makes scores."""
    found, possible = np.zeros((len(candidates), ORDERS)), np.zeros((len(candidates), ORDERS))
    lengths, closest = np.zeros(len(candidates)), np.zeros(len(candidates))
    for row, (candidate, own) in enumerate(zip(candidates, references, strict=True)):
        most: Counter[tuple[str, ...]] = Counter()
        for reference in own:
            most |= _ngrams(reference)
        for ngram, count in (_ngrams(candidate) & most).items():
            found[row, len(ngram) - 1] += count
        lengths[row] = len(candidate)
        closest[row] = min((abs(len(reference) - len(candidate)), len(reference)) for reference in own)[1]
        possible[row] = np.maximum(len(candidate) - np.arange(ORDERS), 0)
    return BleuCounts(found, possible, lengths, closest)


def bleu_of(counts: BleuCounts) -> np.ndarray:
    """BLEU-1 to BLEU-4 of each row of counts, `(N, 4)`; a row may be one clip's, or the sum of several."""
    found, possible, lengths, closest = counts
    precision = (found + _TINY) / (possible + _SMALL)
    ratio = (lengths + _TINY) / (closest + _SMALL)
    penalty = np.exp(np.minimum(0, 1 - 1 / ratio))
    return np.cumprod(precision, axis=1) ** (1 / np.arange(1, ORDERS + 1)) * penalty[:, None]


def rouge_l(candidates: Sequence[Words], references: Sequence[Sequence[Words]], beta: float = 1.2) -> np.ndarray:
    """ROUGE-L (Lin 2004, aclanthology.org/W04-1013) of each clip: F-score of the longest common subsequence of words.

    Precision and recall are each the best over the references, which need not be the same one (so do the COCO tools);
    `beta` weighs recall.

    Example: candidate `a dog barks`, reference `a big dog barks loudly`. The common subsequence has 3 words, precision
    is 3/3, recall 3/5; (1 + 1.44) * 1 * 0.6 / (0.6 + 1.44 * 1) = 0.718.

    Returns:
        `(N,)` float64; 0 for a candidate without words.
    """
    scores = np.zeros(len(candidates))
    for row, (candidate, own) in enumerate(zip(candidates, references, strict=True)):
        common = [_common_subsequence(candidate, reference) for reference in own]
        if any(common):
            precision = max(common) / len(candidate)
            recall = max(length / max(len(reference), 1) for length, reference in zip(common, own, strict=True))
            scores[row] = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    return scores


def _common_subsequence(a: Words, b: Words) -> int:
    """The length of the longest common subsequence, a row of the table at a time as the bits of an integer.

    Hyyrö 2004, "Bit-parallel LCS-length computation revisited". A bit that is 0: there in `a` the length grows by one.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << place
    row = full = (1 << len(a)) - 1
    for word in b:
        both = row & places.get(word, 0)
        row = (row + both | row - both) & full
    return len(a) - row.bit_count()


def cider_d(candidates: Sequence[Words], references: Sequence[Sequence[Words]], sigma: float = 6.0) -> np.ndarray:
    """CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726) of each clip, times 10 as usual.

    An n-gram weighs its count times log(N / number of clips with the n-gram in a reference), N the number of clips. The
    score is the cosine of the weights of candidate and reference, the candidate's clipped at the reference's, times
    exp(-difference of lengths² / 2 sigma²), as a mean over n = 1 to 4 and over the references. The length here is the
    number of pairs of words, as in the COCO tools.

    So the score of a clip depends on the references of the others: scores of different sets cannot be compared, an
    n-gram that all clips share counts nothing, and a set of one clip gives 0 whatever the caption says.

    Example: two clips with one reference each, `a dog barks` and `a cat meows`. `a` weighs log(2/2) = 0, all other
    n-grams log(2/1). The candidate `a dog barks` has cosine 1 for n = 1, 2 and 3 and no 4-gram: 10 * 3/4 = 7.5.

    Returns:
        `(N,)` float64, between 0 and 10.
    """
    counted = [[_ngrams(reference) for reference in own] for own in references]
    clips_with = Counter(ngram for own in counted for ngram in set().union(*own))
    everything = math.log(max(len(counted), 1))
    rarity = {ngram: everything - math.log(clips) for ngram, clips in clips_with.items()}
    scores = np.zeros(len(candidates))
    for row, (candidate, own) in enumerate(zip(candidates, counted, strict=True)):
        # An n-gram that no reference holds weighs as one that a single clip holds.
        weights = {ngram: count * rarity.get(ngram, everything) for ngram, count in _ngrams(candidate).items()}
        size, pairs = _norms(weights), max(len(candidate) - 1, 0)
        for words, reference in zip(references[row], own, strict=True):
            other = {ngram: count * rarity[ngram] for ngram, count in reference.items()}
            product = [0.0] * ORDERS
            for ngram in weights.keys() & other.keys():
                product[len(ngram) - 1] += min(weights[ngram], other[ngram]) * other[ngram]
            scale = [a * b for a, b in zip(size, _norms(other), strict=True)]
            cosine = sum(p / s for p, s in zip(product, scale, strict=True) if s > 0) / ORDERS
            apart = pairs - max(len(words) - 1, 0)
            scores[row] += 10 * cosine * math.exp(-(apart**2) / (2 * sigma**2)) / len(own)
    return scores


def _norms(weights: dict[tuple[str, ...], float]) -> list[float]:
    """The Euclidean norm of the weights of each order."""
    squares = [0.0] * ORDERS
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    return [math.sqrt(square) for square in squares]


def _ngrams(words: Words) -> Counter[tuple[str, ...]]:
    """How often each n-gram of 1 to 4 words occurs."""
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))

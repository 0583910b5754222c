"""Metrics that count words: by hand, by slow definitions, by other tools, and on 912 published scores."""

import ast
import csv
import math
from collections import Counter

import numpy as np
import pytest
from torchmetrics.functional.text import bleu_score
from torchmetrics.functional.text.rouge import rouge_score

from atr.evaluation.ngrams import bleu, cider_d, rouge_l, tokenise, vocabulary
from tests.conftest import SHARED

AUDIOCAPS = SHARED / "data" / "captions" / "audiocaps" / "test.csv"
CANDIDATES = [
    "a man speaks while a dog barks",
    "rain falls on a roof",
    "birds sing",
    "an engine starts and then runs quietly",
]
REFERENCES = [
    ["a man is speaking and a dog barks", "a dog barks while a man speaks loudly"],
    ["rain is falling on a metal roof", "heavy rain falls", "rain falls on a roof and thunder rolls"],
    ["birds are singing in the distance"],
    ["an engine starts", "a car engine starts and runs", "a motor starts and then a man speaks"],
]
# Of the four clips above, by pycocoevalcap 1.2.
COCO_BLEU = [0.8225701149053528, 0.7562284106731746, 0.683959539656628, 0.49112264869807937]
COCO_BLEU_4 = [8.282522407619799e-05, 0.999999999679167, 2.0237345066702103e-08, 9.62195458013059e-05]
COCO_ROUGE_L = [0.6587473002159828, 0.7721518987341772, 0.22932330827067668, 0.7648902821316614]
COCO_CIDER_D = [3.86195486, 3.55131874, 0.57788244, 2.94186565]


def split(captions):
    return [caption.split() for caption in captions]


def drawn(seed, clips=12, letters="abcd"):
    """Captions of few words, so that they share many n-grams, with one to four references."""
    rng = np.random.default_rng(seed)

    def caption():
        return rng.choice(list(letters), size=rng.integers(1, 9)).tolist()

    return [caption() for _ in range(clips)], [[caption() for _ in range(rng.integers(1, 5))] for _ in range(clips)]


def ngrams_of(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def slow_cider_d(candidates, references, sigma=6.0):
    """By the definition, with a dense vector of all n-grams of one order at a time."""
    scores = np.zeros(len(candidates))
    for n in (1, 2, 3, 4):
        own = [{gram for words in clip for gram in ngrams_of(words, n)} for clip in references]
        everything = sorted(set().union(*own, *(ngrams_of(words, n) for words in candidates)))
        clips_with = np.array([sum(gram in grams for grams in own) for gram in everything])
        idf = np.log(len(candidates)) - np.log(np.maximum(clips_with, 1))

        def vector(words, n=n, everything=everything, idf=idf):
            counts = Counter(ngrams_of(words, n))
            return np.array([counts[gram] for gram in everything]) * idf

        for row, (candidate, clip) in enumerate(zip(candidates, references, strict=True)):
            mine = vector(candidate)
            for reference in clip:
                theirs = vector(reference)
                norm = np.linalg.norm(mine) * np.linalg.norm(theirs)
                cosine = np.minimum(mine, theirs) @ theirs / norm if norm else 0.0
                pairs = len(ngrams_of(candidate, 2)) - len(ngrams_of(reference, 2))
                scores[row] += 10 / 4 / len(clip) * cosine * math.exp(-(pairs**2) / (2 * sigma**2))
    return scores


def slow_bleu(candidates, references, order):
    """BLEU of a set by the definition, nothing guarded against."""
    logs = []
    for n in range(1, order + 1):
        found = possible = 0
        for candidate, clip in zip(candidates, references, strict=True):
            for gram, count in Counter(ngrams_of(candidate, n)).items():
                possible += count
                found += min(count, max(ngrams_of(reference, n).count(gram) for reference in clip))
        logs.append(math.log(found / possible))
    length = sum(map(len, candidates))
    closest = 0
    for candidate, clip in zip(candidates, references, strict=True):
        closest += sorted((abs(len(reference) - len(candidate)), len(reference)) for reference in clip)[0][1]
    return math.exp(sum(logs) / order + min(0, 1 - closest / length))


def slow_common_subsequence(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, one in enumerate(a, 1):
        for j, other in enumerate(b, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if one == other else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A woman’s high-pitched voice, then (faint) clapping!", "a woman's high pitched voice then faint clapping"),
        ("An emergency vehicles' siren", "an emergency vehicles siren"),
        ("'A power tool' runs; it doesn't stop...", "a power tool runs it doesn't stop"),
        ("U'A clock ticking", "u a clock ticking"),
        ("wind_noise and/or rain at 3.5 m", "wind noise and or rain at 3 5 m"),
        ("Ein Café in Zürich", "ein café in zürich"),
        ("  ?! ", ""),
    ],
)
def test_words_of_a_caption(caption, words):
    assert tokenise(caption) == words.split()


def test_vocabulary_counts_different_words():
    assert vocabulary(split(["a dog barks", "a dog howls", ""])) == 4


def test_the_examples_of_the_docstrings():
    together, each = bleu([["a", "dog", "barks"]], [[["a", "dog", "barks", "loudly"]]])
    np.testing.assert_allclose(together[:3], math.exp(-1 / 3), atol=1e-8)
    assert together[3] == pytest.approx(1e-6**0.25 * math.exp(-1 / 3), rel=1e-6)
    np.testing.assert_array_equal(together, each[0])
    assert rouge_l([["a", "dog", "barks"]], [[["a", "big", "dog", "barks", "loudly"]]]) == pytest.approx(1.464 / 2.04)
    pair = [[["a", "dog", "barks"]], [["a", "cat", "meows"]]]
    np.testing.assert_allclose(cider_d([["a", "dog", "barks"], ["a", "cat"]], pair)[0], 7.5)


def test_four_clips_score_as_by_the_coco_tools():
    candidates, references = split(CANDIDATES), [split(clip) for clip in REFERENCES]
    together, each = bleu(candidates, references)
    np.testing.assert_allclose(together, COCO_BLEU, atol=1e-12)
    np.testing.assert_allclose(each[:, 3], COCO_BLEU_4, atol=1e-12)
    np.testing.assert_allclose(rouge_l(candidates, references), COCO_ROUGE_L, atol=1e-12)
    np.testing.assert_allclose(cider_d(candidates, references), COCO_CIDER_D, atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_cider_d_is_its_definition(seed):
    candidates, references = drawn(seed)
    np.testing.assert_allclose(cider_d(candidates, references), slow_cider_d(candidates, references), atol=1e-12)
    one_longer = [[*candidates[0], "a"], *candidates[1:]]
    assert abs(cider_d(one_longer, references) - slow_cider_d(candidates, references)).max() > 1e-3


def test_cider_d_of_one_clip_is_zero_and_depends_on_the_other_clips():
    dog, cat = [["a", "dog", "barks"]], [["a", "cat", "meows"]]
    assert cider_d([dog[0]], [dog]).tolist() == [0.0]
    alone, beside_dogs = cider_d([dog[0], cat[0]], [dog, cat])[0], cider_d([dog[0], cat[0]], [dog, dog])[0]
    assert (alone, beside_dogs) == (pytest.approx(7.5), 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_bleu_of_a_set_is_its_definition_and_torchmetrics(seed):
    candidates, references = drawn(seed, clips=40, letters="ab")
    together, _ = bleu(candidates, references)
    # Where two references are equally close in length torchmetrics takes the first, the COCO tools the shorter.
    sentences = [[" ".join(words) for words in sorted(clip, key=len)] for clip in references]
    for order in (1, 2, 3, 4):
        assert together[order - 1] == pytest.approx(slow_bleu(candidates, references, order), abs=1e-8)
        theirs = bleu_score([" ".join(words) for words in candidates], sentences, n_gram=order)
        assert together[order - 1] == pytest.approx(float(theirs), abs=1e-6)


def test_bleu_of_a_set_is_not_the_mean_of_its_clips():
    candidates, references = split(CANDIDATES), [split(clip) for clip in REFERENCES]
    together, each = bleu(candidates, references)
    assert abs(together - each.mean(axis=0)).min() > 0.05
    for row in range(4):
        np.testing.assert_array_equal(bleu([candidates[row]], [references[row]])[0], each[row])


@pytest.mark.parametrize("seed", range(5))
def test_rouge_l_by_the_table_of_subsequences_and_by_torchmetrics(seed):
    candidates, references = drawn(seed)
    scores = rouge_l(candidates, references)
    for score, candidate, clip in zip(scores, candidates, references, strict=True):
        common = [slow_common_subsequence(candidate, reference) for reference in clip]
        precision = max(common) / len(candidate)
        recall = max(length / len(reference) for length, reference in zip(common, clip, strict=True))
        f_score = 2.44 * precision * recall / (recall + 1.44 * precision) if any(common) else 0.0
        assert score == pytest.approx(f_score, abs=1e-12)
    # With one reference and beta 1 it is what others call ROUGE-L.
    ours = rouge_l(candidates, [clip[:1] for clip in references], beta=1.0)
    texts = [" ".join(words) for words in candidates], [" ".join(clip[0]) for clip in references]
    theirs = [rouge_score([one], [other], rouge_keys="rougeL") for one, other in zip(*texts, strict=True)]
    np.testing.assert_allclose(ours, [float(scores["rougeL_fmeasure"]) for scores in theirs], atol=1e-6)


def test_a_candidate_without_words_scores_nothing():
    references = [[["a", "dog", "barks"]], [["rain", "falls"]]]
    candidates = [[], ["rain", "falls"]]
    assert bleu(candidates, references)[1][0].max() == 0
    assert rouge_l(candidates, references)[0] == cider_d(candidates, references)[0] == 0


def scores_of(candidates, references):
    together, each = bleu(candidates, references)
    items = {f"bleu_{n}": each[:, n - 1] for n in (1, 2, 3, 4)}
    return together, items | {"rouge_l": rouge_l(candidates, references), "cider_d": cider_d(candidates, references)}


def test_912_published_scores_are_reproduced_and_rotated_predictions_are_not(published):
    candidates = [tokenise(row["cands"]) for row in published]
    references = [[tokenise(text) for text in ast.literal_eval(row["mrefs"])] for row in published]
    together, items = scores_of(candidates, references)
    _, rotated = scores_of(candidates[1:] + candidates[:1], references)
    for name, ours in items.items():
        theirs = np.array([float(row[f"best_fense.cands.{name}"]) for row in published])
        assert abs(ours - theirs).max() < 1e-9, name
        assert abs(rotated[name] - theirs).max() > 0.9, name
        assert np.mean(abs(rotated[name] - theirs) > 1e-6) > 0.5, name  # BLEU-4 is nearly 0 in both for the rest
    np.testing.assert_allclose(
        together, [0.7056277851477355, 0.5173092740069409, 0.36305519455189683, 0.23904696198793854], atol=1e-9
    )
    assert items["rouge_l"].mean() == pytest.approx(0.48369463967210174, abs=1e-9)
    assert items["cider_d"].mean() == pytest.approx(0.7134993632268781, abs=1e-9)
    assert vocabulary(candidates) == 309
    assert vocabulary(words for clip in references for words in clip) == 1637


def test_the_published_references_are_the_words_of_audiocaps_own_captions(published):
    """So `tokenise` makes these words from the publisher's table, with capitals, commas, hyphens and apostrophes."""
    if not AUDIOCAPS.is_file():
        pytest.skip("needs AudioCaps' table of captions (shared data)")
    raw: dict[str, list[str]] = {}
    with AUDIOCAPS.open(newline="") as file:
        for row in csv.DictReader(file):
            raw.setdefault(f"{row['youtube_id']}_{row['start_time']}.flac", []).append(row["caption"])
    for row in published:
        own = sorted(" ".join(tokenise(text)) for text in raw[row["fname"]])
        assert own == sorted(ast.literal_eval(row["mrefs"]))

"""Decoding against its slow obvious version: one clip, no cache, Python lists."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atr.errors import UsageError
from atr.models.decode import Decoding, generate
from tests.captioners import SPOKEN, WORDS, tiny_captioner

END = 2


@pytest.fixture(autouse=True)
def _one_thread(_same_threads):
    torch.set_num_threads(1)  # tensors are tiny


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return tiny_captioner(tmp_path_factory.mktemp("captioner"))


@pytest.fixture(scope="module")
def features():
    return F.normalize(torch.randn(8, 32, generator=torch.Generator().manual_seed(1)), dim=1)


@torch.no_grad()
def step(captioner, feature, tokens, penalty=1.0, ngram=0):
    """Log-probabilities of the next token after a beginning, computed anew from the prefix on: list of 16."""
    words = captioner.language_model.get_input_embeddings()(torch.tensor([tokens], dtype=torch.int64))
    heard = torch.cat([captioner.prefix(feature[None]), words], dim=1)
    logits = captioner.language_model(inputs_embeds=heard, use_cache=False).logits[0, -1].float()
    scores = F.log_softmax(logits, dim=0).tolist()
    for token in range(16):
        seen = {tuple(tokens[i : i + ngram]) for i in range(len(tokens) - ngram + 1)} if ngram else set()
        if token in tokens:
            scores[token] *= penalty
        if token not in SPOKEN:
            scores[token] = -math.inf
        if (token == END and not tokens) or (*tokens[len(tokens) - ngram + 1 :], token) in seen:
            scores[token] = -math.inf
    return scores


def written(tokens):
    return " ".join(WORDS[token - 3] for token in tokens if token > END)


def slow_greedy(captioner, feature, limit=8, **repetition):
    tokens = []
    while len(tokens) < limit and (not tokens or tokens[-1] != END):
        scores = step(captioner, feature, tokens, **repetition)
        tokens.append(scores.index(max(scores)))
    return written(tokens)


def slow_beam(captioner, feature, beams, limit=8, **repetition):
    """Captions by their mean log-probability, the best first."""
    running, ended = [(0.0, [])], []
    for place in range(limit):
        grown = [
            (score + value, [*tokens, token])
            for score, tokens in running
            for token, value in enumerate(step(captioner, feature, tokens, **repetition))
        ]
        grown = sorted(grown, key=lambda one: -one[0])[: 2 * beams]
        done = [tokens[-1] == END or place == limit - 1 for _, tokens in grown]
        ended += [
            (score / (place + 1), tokens) for (score, tokens), is_done in zip(grown, done, strict=True) if is_done
        ][: sum(done[:beams])]
        ended = sorted(ended, key=lambda one: -one[0])[:beams]
        running = [one for one, is_done in zip(grown, done, strict=True) if not is_done][:beams]
        if not running or (len(ended) == beams and running[0][0] / (place + 1) <= ended[-1][0]):
            break
    return [written(tokens) for _, tokens in ended]


def test_greedy_equals_its_slow_version_without_a_cache(captioner, features):
    found = [one for (one,) in generate(captioner, features, Decoding("greedy"))]
    assert found == [slow_greedy(captioner, feature) for feature in features]
    assert len(set(found)) > 4 and len({len(one.split()) for one in found}) > 2  # a control: they can be told apart
    found = generate(captioner, features, Decoding("greedy", max_tokens=3))
    assert [one for (one,) in found] == [slow_greedy(captioner, feature, 3) for feature in features]


@pytest.mark.parametrize("beams", [2, 3, 5])
def test_beams_equal_their_slow_version(captioner, features, beams):
    found = generate(captioner, features, Decoding(beams=beams, candidates=beams))
    assert found == [slow_beam(captioner, feature, beams) for feature in features]
    best = generate(captioner, features, Decoding(beams=beams))
    assert best == [one[:1] for one in found]
    assert best != generate(captioner, features, Decoding("greedy"))  # a control


def test_one_beam_is_greedy(captioner, features):
    greedy = generate(captioner, features, Decoding("greedy"))
    assert generate(captioner, features, Decoding(beams=1)) == greedy
    assert [slow_beam(captioner, feature, 1) for feature in features] == greedy


@pytest.mark.parametrize(
    "decoding",
    [Decoding("greedy"), Decoding(candidates=3), Decoding("nucleus", candidates=3, seed=5)],
    ids=["greedy", "beam", "nucleus"],
)
@pytest.mark.parametrize("temporal", [False, True])
def test_a_batch_gives_what_each_clip_gives(captioner, features, tmp_path, decoding, temporal):
    if temporal:
        captioner = tiny_captioner(tmp_path, temporal=True)
        features = 9 * torch.randn(8, 8, captioner.dim, generator=torch.Generator().manual_seed(1))
    keys = list(range(8))
    together = generate(captioner, features, decoding, keys)
    alone = [generate(captioner, features[i : i + 1], decoding, keys[i : i + 1])[0] for i in range(8)]
    backwards = generate(captioner, features.flip(0), decoding, keys[::-1])[::-1]
    assert together == alone == backwards
    assert [len(one) for one in together] == [decoding.candidates] * 8
    assert len({tuple(one) for one in together}) > 3  # a control
    if decoding.method == "nucleus":
        assert generate(captioner, features, decoding, keys[::-1]) != together


def test_nucleus_with_a_small_p_is_greedy_and_seeds_differ(captioner, features):
    greedy = generate(captioner, features, Decoding("greedy"))
    assert generate(captioner, features, Decoding("nucleus", top_p=1e-6)) == greedy
    draws = [generate(captioner, features, Decoding("nucleus", seed=seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] and draws[0] != draws[2]
    before = torch.random.get_rng_state()
    generate(captioner, features, Decoding("nucleus"))
    assert torch.equal(torch.random.get_rng_state(), before)  # the chance of others is left alone


def nucleus(log_probabilities, top_p, temperature):
    """The smallest set of tokens that has the probability p: token -> probability within it."""
    weights = [math.exp(value / temperature) for value in log_probabilities]
    order = sorted(range(len(weights)), key=lambda token: -weights[token])
    kept, mass = [], 0.0
    for token in order:
        if mass >= top_p * sum(weights) or not weights[token]:
            break
        kept.append(token)
        mass += weights[token]
    return {token: weights[token] / mass for token in kept}


def test_nucleus_draws_from_the_truncated_distribution(captioner, features):
    top_p, temperature, count = 0.8, 1.3, 6000
    decoding = Decoding("nucleus", top_p=top_p, temperature=temperature, candidates=count // 2, max_tokens=2)
    feature = features[:1]
    drawn = [one for part in generate(captioner, feature.repeat(2, 1), decoding, [0, 1]) for one in part]

    def expected(top_p, temperature):
        pairs = {}
        for first, p in nucleus(step(captioner, feature[0], []), top_p, temperature).items():
            for second, q in nucleus(step(captioner, feature[0], [first]), top_p, temperature).items():
                name = written([first, second])
                pairs[name] = pairs.get(name, 0.0) + p * q
        return pairs

    def surprise(pairs):
        """Chi-square per degree of freedom: about 1 for the right distribution."""
        if set(drawn) - set(pairs):
            return math.inf
        return sum((drawn.count(one) - count * p) ** 2 / (count * p) for one, p in pairs.items()) / (len(pairs) - 1)

    pairs = expected(top_p, temperature)
    assert len(pairs) > 10 and surprise(pairs) < 1 + 5 * math.sqrt(2 / (len(pairs) - 1))
    assert surprise(expected(1.0, temperature)) > 3 and surprise(expected(top_p, 1.0)) > 3  # controls
    halves = [np.mean([one == drawn[0] for one in half]) for half in (drawn[: count // 2], drawn[count // 2 :])]
    assert drawn[: count // 2] != drawn[count // 2 :] and halves[0] == pytest.approx(halves[1], abs=0.05)


def repeats(caption, ngram):
    words = caption.split()
    grams = list(itertools.pairwise(words)) if ngram == 2 else words
    return len(grams) > len(set(grams))


@pytest.mark.parametrize("decoding", [{"method": "greedy"}, {"beams": 3}, {"method": "nucleus"}])
def test_no_token_stands_twice_where_that_is_asked(captioner, features, decoding):
    free = [one for (one,) in generate(captioner, features, Decoding(**decoding))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ngram in (1, 2):
            found = [one for (one,) in generate(captioner, features, Decoding(**decoding, no_repeat_ngram=ngram))]
            assert all(found) and not any(repeats(one, ngram) for one in found)
    assert any(repeats(one, 1) for one in free)  # a control


def test_a_penalty_for_repetition_means_the_same_for_all_methods(captioner, features):
    for penalty, ngram in ((1.5, 0), (4.0, 2), (0.7, 0)):
        settings, slow = {"repetition_penalty": penalty, "no_repeat_ngram": ngram}, {"penalty": penalty, "ngram": ngram}
        greedy = generate(captioner, features, Decoding("greedy", **settings))
        assert greedy == [[slow_greedy(captioner, feature, **slow)] for feature in features]
        assert generate(captioner, features, Decoding("nucleus", top_p=1e-6, **settings)) == greedy
        beam = generate(captioner, features, Decoding(beams=3, **settings))
        assert beam == [slow_beam(captioner, feature, 3, **slow)[:1] for feature in features]
    assert greedy != generate(captioner, features, Decoding("greedy"))


def test_no_caption_is_empty_or_holds_what_is_no_word(features, tmp_path, monkeypatch):
    """The end, blanks and what the tokenizer does not know are by far the most probable tokens."""
    captioner = tiny_captioner(tmp_path, words=[*WORDS, "\u3000", "\x07"])
    loud = torch.zeros(16)
    loud[[0, 1, 2, 12, 13, 14, 15]] = 60.0
    head = captioner.language_model.lm_head.forward
    monkeypatch.setattr(captioner.language_model.lm_head, "forward", lambda x: head(x) + loud)
    for decoding in (Decoding("greedy"), Decoding(candidates=4), Decoding("nucleus", top_p=1.0, candidates=4)):
        for caption in itertools.chain(*generate(captioner, features, decoding)):
            assert caption in WORDS  # and then the end, or blanks up to the limit
    assert captioner.tokenizer.blank == [0, 1, 2, 12, 13]


def test_the_captioner_stays_as_it_was(captioner, features):
    captioner.train()
    captioner.language_model.transformer.drop.p = 0.9
    trained = generate(captioner, features, Decoding("greedy"))
    assert captioner.training and not captioner.clap.training
    assert generate(captioner.eval(), features, Decoding("greedy")) == trained
    assert generate(captioner, features[:0]) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "sample"}, "method is 'sample'; allowed: greedy, beam, nucleus"),
        ({"top_p": 0.5}, "top_p=0.5 has no meaning with method=beam; it is an option of nucleus"),
        ({"method": "greedy", "candidates": 2}, "candidates=2 has no meaning with method=greedy; it is an option of b"),
        ({"method": "nucleus", "top_p": 0.0}, "top_p is 0.0; allowed: above 0, at most 1"),
        ({"method": "nucleus", "top_p": float("nan")}, "top_p is nan; allowed: above 0, at most 1"),
        ({"method": "nucleus", "temperature": 0.0}, "temperature is 0.0; allowed: above 0"),
        ({"method": "nucleus", "seed": -1}, "seed is -1; allowed: 0 or more"),
        ({"beams": 0}, "beams is 0; allowed: 1 or more"),
        ({"max_tokens": 0}, "max_tokens is 0; allowed: 1 or more"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; allowed: above 0"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram is -1; allowed: 0 or more"),
        ({"candidates": 6}, "candidates=6, but beams=5 find only so many; raise beams"),
    ],
)
def test_what_has_no_meaning_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        Decoding(**settings)


def test_captions_that_do_not_fit_are_refused(captioner, features):
    with pytest.raises(UsageError, match="max_tokens=29 with a prefix of 4 makes 33 places; the language model has 32"):
        generate(captioner, features, Decoding(max_tokens=29))
    assert generate(captioner, features[:1], Decoding(max_tokens=28))

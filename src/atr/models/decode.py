"""Captions out of a captioner: greedy, beam search, or real nucleus sampling (arXiv 1904.09751), in batches.

All of it runs through `generate` of `transformers`, with its key-value cache, on the prefix as `inputs_embeds`. The
prefixes of a batch are equally long, so nothing is padded before them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from atr.errors import UsageError
from atr.models.captioner import Captioner

Method = Literal["greedy", "beam", "nucleus"]
BELONG = {  # options that only some methods know
    "beams": ("beam",), "top_p": ("nucleus",), "temperature": ("nucleus",), "seed": ("nucleus",),
    "candidates": ("beam", "nucleus"),
}  # fmt: skip


@dataclass(frozen=True)
class Decoding:
    """How captions are decoded.

    `greedy` takes the most probable token at each place. `beam` keeps the `beams` most probable beginnings, and ranks
    ended captions by their mean log-probability per token, the end token counted; a search ends when the mean of its
    best beginning is not above that of its worst ended caption. `nucleus` draws each token from the smallest set that
    has the probability `top_p`.

    Args:
        method: one of these.
        beams: of `beam`; 1 is greedy.
        top_p: in (0, 1]; 1 draws from all tokens. temperature: logits are divided by it before.
        max_tokens: longest caption, its end included; None: as long as the captioner was trained for.
        repetition_penalty: log-probabilities of tokens that the caption has already are multiplied by it (the penalty
            of arXiv 1909.05858, but on log-probabilities, so that it means the same for all methods); 1: none.
        no_repeat_ngram: so many tokens never stand twice in a caption one after the other; 0: they may.
        seed: of `nucleus`.
        candidates: captions for each clip, best first: the best beams, or so many draws.

    Raises:
        UsageError: a value has no meaning, or none with this method.
    """

    method: Method = "beam"
    beams: int = 5
    top_p: float = 0.9
    temperature: float = 1.0
    max_tokens: int | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    seed: int = 0
    candidates: int = 1

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UsageError(f"method is {self.method!r}; allowed: {', '.join(get_args(Method))}")
        for field in fields(self):
            value, methods = getattr(self, field.name), BELONG.get(field.name, get_args(Method))
            if value != field.default and self.method not in methods:
                raise UsageError(f"{field.name}={value} has no meaning with method={self.method}; it is {_of(methods)}")
        longest = 1 if self.max_tokens is None else self.max_tokens
        for name, value, good, allowed in (
            ("beams", self.beams, self.beams >= 1, "1 or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, at most 1"),
            ("temperature", self.temperature, 0 < self.temperature < float("inf"), "above 0"),
            ("max_tokens", self.max_tokens, longest >= 1, "1 or more"),
            ("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty < float("inf"), "above 0"),
            ("no_repeat_ngram", self.no_repeat_ngram, self.no_repeat_ngram >= 0, "0 or more"),
            ("seed", self.seed, self.seed >= 0, "0 or more"),
            ("candidates", self.candidates, self.candidates >= 1, "1 or more"),
        ):
            if not good:
                raise UsageError(f"{name} is {value}; allowed: {allowed}")
        if self.method == "beam" and self.candidates > self.beams:
            raise UsageError(f"candidates={self.candidates}, but beams={self.beams} find only so many; raise beams")


def _of(methods: Sequence[str]) -> str:
    return "an option of " + " and ".join(methods)


DEFAULT = Decoding()


@torch.inference_mode()
def generate(
    captioner: Captioner, features: Tensor, decoding: Decoding = DEFAULT, keys: Sequence[int] | None = None
) -> list[list[str]]:
    """Captions of clips, none of them empty, single blanks between words, without special tokens.

    A clip's captions do not depend on the clips beside it. For `nucleus` its chance is a function of the seed, its key
    and the number of the candidate, drawn before decoding: one uniform number for each token.

    Args:
        captioner: in any mode; decodes in `eval()`.
        features: `(B, D)` or `(B, N, D')`, as `Captioner.features` gives them.
        keys: of each clip, 0 or more; clips with the same key share their chance. None: all do.

    Returns:
        `candidates` captions for each clip, best first; those of `nucleus` as they were drawn.

    Raises:
        UsageError: captions of `max_tokens` do not fit into the language model.
    """
    limit = decoding.max_tokens or captioner.tokenizer.max_tokens
    if (needed := captioner.prefix_length + limit) > (places := captioner.language_model.config.n_positions):
        raise UsageError(
            f"max_tokens={limit} with a prefix of {captioner.prefix_length} makes {needed} places; the language model "
            f"has {places}"
        )
    if not len(features):
        return []
    before = captioner.training
    captioner.eval()
    try:
        tokens = _tokens(captioner, features, decoding, limit, keys or [0] * len(features))
    finally:
        captioner.train(before)
    captions = captioner.tokenizer.decode(tokens)
    each = decoding.candidates
    return [captions[first : first + each] for first in range(0, len(captions), each)]


def _tokens(captioner: Captioner, features: Tensor, decoding: Decoding, limit: int, keys: Sequence[int]) -> Tensor:
    """Tokens of the captions, int64 `(B * candidates, up to limit)`, filled up with the end token."""
    from transformers import GenerationConfig

    model, end = captioner.language_model, captioner.tokenizer.end
    is_beam, is_nucleus = decoding.method == "beam", decoding.method == "nucleus"
    prefix = captioner.prefix(features).to(model.get_input_embeddings().weight.dtype)
    if is_nucleus:
        prefix = prefix.repeat_interleave(decoding.candidates, dim=0)
    settings = GenerationConfig(
        max_new_tokens=limit, num_beams=decoding.beams if is_beam else 1,
        num_return_sequences=decoding.candidates if is_beam else 1, length_penalty=1.0, early_stopping=False,
        do_sample=False, eos_token_id=end, pad_token_id=end, bos_token_id=end,
    )  # fmt: skip
    tokens: Tensor = model.generate(
        inputs_embeds=prefix,
        attention_mask=torch.ones(prefix.shape[:2], dtype=torch.int64, device=prefix.device),
        generation_config=settings,
        logits_processor=_processors(captioner, decoding, limit, keys),
    )
    return tokens


def _processors(captioner: Captioner, decoding: Decoding, limit: int, keys: Sequence[int]) -> Any:
    """What changes log-probabilities at each place, in this order.

    Repetition is given here and not to `generate` as settings, as it would warn that it does not look at the prefix.
    """
    from transformers import LogitsProcessorList
    from transformers.generation import logits_process as known

    device = next(captioner.language_model.parameters()).device
    chain: list[Any] = [known.LogitNormalization()]
    if decoding.repetition_penalty != 1:
        chain.append(known.RepetitionPenaltyLogitsProcessor(float(decoding.repetition_penalty)))
    if decoding.no_repeat_ngram:
        chain.append(known.NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram))
    chain.append(_Allowed(captioner, device))
    if decoding.method == "nucleus":
        chances = [
            np.random.default_rng([decoding.seed, key, number]).random(limit, dtype=np.float32)
            for key in keys
            for number in range(decoding.candidates)
        ]
        chain += [
            known.TemperatureLogitsWarper(float(decoding.temperature)), known.TopPLogitsWarper(decoding.top_p),
            _Draw(torch.from_numpy(np.stack(chances)).to(device)),
        ]  # fmt: skip
    return LogitsProcessorList(chain)


class _Allowed:
    """Forbids tokens that the tokenizer does not know, special ones but the end, and a first one that shows nothing."""

    def __init__(self, captioner: Captioner, device: torch.device) -> None:
        tokenizer, words = captioner.tokenizer, captioner.language_model.config.vocab_size
        self.never = torch.ones(words, dtype=torch.bool, device=device)
        self.never[: len(tokenizer)] = False
        self.never[[token for token in tokenizer.inner.all_special_ids if token != tokenizer.end]] = True
        self.not_first = self.never.clone()
        self.not_first[tokenizer.blank] = True

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forbidden = self.never if input_ids.shape[1] else self.not_first
        return scores.masked_fill(forbidden, float("-inf"))


class _Draw:
    """Draws a token with the probabilities of its row, and leaves it as the only one.

    Args:
        chances: float32 `(rows, places)` in [0, 1): where in the cumulated probabilities the token lies.
    """

    def __init__(self, chances: Tensor) -> None:
        self.chances = chances.double()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        cumulated = scores.double().softmax(dim=1).cumsum(dim=1)
        at = self.chances[:, input_ids.shape[1], None] * cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, at, right=True)  # whose probability is not 0
        return torch.full_like(scores, float("-inf")).scatter(1, drawn, 0.0)

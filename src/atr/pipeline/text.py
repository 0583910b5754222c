"""Captions: which one, with which words hidden, as which tokens."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from atr.errors import DataError

LITERAL_MASK = "[MASK]"


def captions_of(metadata: dict[str, Any]) -> list[str]:
    """The captions of a shard's json: `text` is a list or, in some shards, one string. Blank ones do not count.

    Raises:
        DataError: `text` is something else.
    """
    text = metadata.get("text", [])
    captions = [text] if isinstance(text, str) else text
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"its json has a `text` of type {type(text).__name__}; allowed: a list of strings, or a string")
    return [caption.strip() for caption in captions if caption.strip()]


def labels_of(metadata: dict[str, Any]) -> list[str]:
    """The labels of a shard's json: `tag` is a list or one string.

    Raises:
        DataError: `tag` is something else.
    """
    tags = metadata.get("tag") or []
    tags = [tags] if isinstance(tags, str) else tags
    if not isinstance(tags, list):
        raise DataError(f"its json has a `tag` of type {type(tags).__name__}; allowed: a list of strings, or a string")
    return [str(tag) for tag in tags]


def label_text(label: str) -> str:
    """What a prompt says for a label: blanks for underscores, and nothing else is changed.

    Case, commas, brackets and slashes stay as the corpus writes them, because papers name no rule for them.

    >>> label_text("dog_bark"), label_text("Inside, small room"), label_text("Whimper (dog)"), label_text("Happy/Joy")
    ('dog bark', 'Inside, small room', 'Whimper (dog)', 'Happy/Joy')
    """
    return label.replace("_", " ")


def label_caption(labels: Sequence[str], template: str) -> str:
    """A caption made of labels, as LAION-CLAP's data has them.

    >>> label_caption(["dog_bark", "rain", "wind"], "The sounds of {labels}")
    'The sounds of dog bark, rain and wind'
    """
    *first, last = map(label_text, labels)
    return template.replace("{labels}", f"{', '.join(first)} and {last}" if first else last)


class WordMask:
    """Hides each whitespace-separated word with probability `probability`.

    Variants:
        `mask_token`: the tokenizer's own mask token; one word, drawn at random, always stays.
        `literal`: the text "[MASK]", which RoBERTa splits into four ordinary pieces, and all words may go.
            This is what the released Auto-ACD code does (`training/data.py`).
    """

    def __init__(self, probability: float, variant: Literal["mask_token", "literal"] = "mask_token") -> None:
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"masking.probability is {probability}; allowed: 0 to 1")
        if variant not in ("mask_token", "literal"):
            raise ValueError(f"masking.variant is {variant!r}; allowed: mask_token, literal")
        self.probability = probability
        self.variant = variant

    def __call__(self, caption: str, mask_token: str, rng: np.random.Generator) -> str:
        """Returns the caption with words hidden, joined by single blanks."""
        words = caption.split()
        hidden = rng.random(len(words)) < self.probability
        if self.variant == "mask_token" and hidden.all():
            hidden[rng.integers(len(words))] = False
        token = mask_token if self.variant == "mask_token" else LITERAL_MASK
        return " ".join(token if hide else word for word, hide in zip(words, hidden, strict=True))

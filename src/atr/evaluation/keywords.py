"""Whether a caption names the right sound, by words that were fixed beforehand: for corpora with labels."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from atr.errors import DataError

WORD = re.compile(r"[a-z]+")


def read_keywords(path: str | Path) -> dict[str, set[str]]:
    """A YAML file of `label: [word, …]`.

    Raises:
        DataError: it is something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read ({error}); give a YAML file of `label: [word, …]`") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; give a YAML file of `label: [word, …]`")
    for label, words in content.items():
        if not isinstance(words, list) or not words or not all(WORD.fullmatch(str(word)) for word in words):
            raise DataError(f"{path}: {label} has {words!r}; allowed: a list of words, a to z in lower case")
    return {str(label): set(words) for label, words in content.items()}


def named(caption: str, keywords: Mapping[str, set[str]]) -> set[str]:
    """The labels of which a caption has a word.

    >>> sorted(named("A dog barks in the rain.", {"dog_bark": {"dog"}, "rain": {"rain"}, "sea": {"sea"}}))
    ['dog_bark', 'rain']
    """
    words = set(WORD.findall(caption.lower()))
    return {label for label, own in keywords.items() if words & own}


def share_named(candidates: Sequence[str], labels: Sequence[str], keywords: Mapping[str, set[str]]) -> float:
    """The share of the captions that name the label of their clip, and no other one."""
    right = [named(caption, keywords) == {label} for caption, label in zip(candidates, labels, strict=True)]
    return sum(right) / len(right)

"""What every file of this folder offers: a `CARD`, and `read(raw, split)` from the publisher's files to clips.

`atr prepare NAME` takes the module `atr.datasets.NAME`; the folder is the list of corpora.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import atr.datasets
from atr.datasets.audio_files import AudioFiles
from atr.errors import DataError, UsageError
from atr.types import BadSample, Clip


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that the publisher offers.

    Attributes:
        url: where it is.
        path: where it belongs, under the corpus's root.
        checksum: `md5:…` or `sha256:…` as the publisher gives it; empty when none is published.
        size: bytes, as published.
        unpack: it is an archive, whose members belong beside it.
    """

    url: str
    path: str
    checksum: str = ""
    size: int | None = None
    unpack: bool = False


@dataclass(frozen=True, kw_only=True)
class Card:
    """What one should know of a corpus.

    Attributes:
        name: the publisher's, as `Clip.dataset` has it.
        homepage: where it is described.
        licence: of sound and of text.
        splits: as `atr prepare` names their folders.
        captions: how many a clip has, e.g. `1; validation and test 5`.
        citation: authors, title, where, DOI or arXiv number.
        faults: what is known to be wrong with it.
        unverified: empty, or what the layout was taken from where it could not be confirmed by real files.
        downloads: the plain files its publisher offers.
    """

    name: str
    homepage: str
    licence: str
    splits: tuple[str, ...]
    captions: str
    citation: str
    faults: tuple[str, ...] = ()
    unverified: str = ""
    downloads: tuple[Download, ...] = ()


@dataclass(frozen=True)
class Raw:
    """What a corpus is read from.

    Attributes:
        root: the publisher's files: tables, and the sounds where they come with them.
        audio: the sounds, by name or video id: below `root`, or below another folder (`--audio-dir`).
        columns: for the user's own tables, field of `Clip` -> name of the column.
        encoding: of the user's own tables.
    """

    root: Path
    audio: AudioFiles
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"


class MissingSplit(DataError):
    """The files of one split are not there; the others may be."""


class Corpus(Protocol):
    """A module of this folder. It may also have `splits(raw)`, where the splits stand in the data."""

    CARD: Card

    def read(self, raw: Raw, split: str) -> Iterator[Clip | BadSample]:
        """The clips of a split in the publisher's order, one at a time, and the rows that give none.

        Raises:
            MissingSplit: the files of this split are not there.
            DataError: a file is there and has another form; the message names file and line.
        """
        ...


def corpus_names() -> list[str]:
    """The corpora that there are, sorted."""
    found = (one.name for one in pkgutil.iter_modules(atr.datasets.__path__))
    return sorted(name for name in found if hasattr(importlib.import_module(f"atr.datasets.{name}"), "CARD"))


def find_corpus(name: str) -> Corpus:
    """The corpus of that name.

    Raises:
        UsageError: there is none; the message lists those that are.
    """
    names = corpus_names()
    if name not in names:
        raise UsageError(f"no corpus is called {name!r}; there are: {', '.join(names)}")
    return importlib.import_module(f"atr.datasets.{name}")


def need_file(path: Path, what: str) -> Path:
    """The path, if a file is there.

    Raises:
        MissingSplit: it is not; `what` says what it should be.
    """
    if not path.is_file():
        raise MissingSplit(f"{path} is missing: {what}")
    return path


def find_file(root: Path, names: Sequence[str], what: str) -> Path:
    """The first of these names below `root` where a file is: archives and repositories lay them out differently.

    Raises:
        MissingSplit: there is none; `what` says what it should be.
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    raise MissingSplit(f"{root} holds no {' or '.join(names)}: {what}")

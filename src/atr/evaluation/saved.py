"""An encoded set as a file: what retrieval can be measured from again, and what a report draws."""

import hashlib
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from atr.collection import whole_file
from atr.errors import DataError

FOLDER = "embeddings"
MOST_LETTERS = 80  # of the name of a file
JSON_COLUMNS = ("labels", "places")


@dataclass(frozen=True)
class SavedSet:
    """Embeddings of clips and of their captions.

    Attributes:
        audio: float32 `(N, D)`, unit norm. ids, titles, folds: of the clips. labels: of each clip, any number.
        text: float32 `(M, D)`, unit norm. captions: their words. clip_of_text: int64 `(M,)`, the clip of each.
        places: folders, files or shards that the sounds were read from.
    """

    audio: np.ndarray
    text: np.ndarray
    clip_of_text: np.ndarray
    ids: Sequence[str]
    captions: Sequence[str]
    labels: Sequence[Sequence[str]]
    titles: Sequence[str]
    folds: Sequence[str]
    places: Sequence[str]


def file_of(dataset: str) -> str:
    """The name of a set's file, one within a folder whatever the set is called."""
    plain = re.sub(r"[^\w.+-]", "_", dataset).lstrip(".")
    same = plain == dataset.replace("/", "_") and "_" not in dataset and len(plain) <= MOST_LETTERS
    return (plain if same else f"{plain[:MOST_LETTERS]}-{hashlib.sha256(dataset.encode()).hexdigest()[:8]}") + ".npz"


def write_saved(path: Path, saved: SavedSet) -> None:
    """Writes an `.npz` without pickled objects, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    columns: dict[str, np.ndarray] = {}
    for one in fields(SavedSet):
        value = getattr(saved, one.name)
        if one.name in JSON_COLUMNS:
            columns[one.name] = np.array(json.dumps([list(row) if one.name == "labels" else row for row in value]))
        else:
            columns[one.name] = value if isinstance(value, np.ndarray) else np.array(list(value), np.str_)
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]


def read_saved(path: Path) -> SavedSet:
    """Reads what `write_saved` wrote.

    Raises:
        DataError: it is not there, damaged, or another kind of file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {one.name: file[one.name] for one in fields(SavedSet)}
        for name in JSON_COLUMNS:
            columns[name] = json.loads(str(columns[name]))
        lists = {name: columns[name].tolist() for name in ("ids", "captions", "titles", "folds")}
        saved = SavedSet(**columns | lists)
        _check(saved)
        return saved
    except (OSError, ValueError, KeyError, TypeError, EOFError, IndexError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} holds no embeddings of `atr eval` ({type(error).__name__}: {error}); make it with --out FOLDER"
        ) from error


def _check(saved: SavedSet) -> None:
    """Do the columns fit each other?

    Raises:
        ValueError: saying which do not.
    """
    clips, texts, width = len(saved.ids), len(saved.captions), saved.audio.shape[-1]
    if saved.audio.shape != (clips, width) or saved.text.shape != (texts, width) or not clips:
        raise ValueError(f"{clips} clips and {texts} captions, but audio {saved.audio.shape}, text {saved.text.shape}")
    if {len(saved.labels), len(saved.titles), len(saved.folds)} != {clips}:
        raise ValueError(f"{clips} clips, but labels, titles or folds of another number")
    owner = saved.clip_of_text
    if owner.shape != (texts,) or (texts and not 0 <= owner.min() <= owner.max() < clips):
        raise ValueError("captions of clips that are not there")
    if not (np.isfinite(saved.audio).all() and np.isfinite(saved.text).all()):
        raise ValueError("an embedding is NaN or infinite")

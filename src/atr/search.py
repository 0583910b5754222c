"""Texts -> the clips of a collection that are nearest to them. Exact: every vector is compared."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from atr.collection import Collection, read_collection
from atr.errors import CheckpointError, UsageError
from atr.inference import load

PRODUCTS = 1 << 24  # cosines held at a time (64 MiB)
# FAISS copies all vectors into its index first, which pays where many texts are looked for at once. Measured, vectors
# of 512 numbers on 2 busy cores: one text in 300 000 rows 0.18 s by products, 1.2 s by FAISS; a hundred texts in
# 100 000 rows 3.8 s and 2.4 s. Below that neither takes long.
FAISS_ROWS, FAISS_TEXTS = 100_000, 32


class Hit(NamedTuple):
    """A clip that was found; `start` and `end` (s) are its window's that is nearest, or the clip's."""

    id: str
    score: float
    start: float
    end: float
    duration: float


def search_file(path: Path, texts: Sequence[str], top: int = 10, model: str | Path | None = None) -> list[list[Hit]]:
    """The best clips of a file of embeddings for each text, best first.

    Args:
        path: what `atr embed` wrote.
        top: clips for each text.
        model: the checkpoint that made it, where it has moved.

    Raises:
        DataError: the file is not there or no collection.
        CheckpointError: the checkpoint is not there, or its weights are not those that made the file.
        UsageError: no text, or an empty one.
    """
    if not texts or not all(text.strip() for text in texts):
        raise UsageError('give at least one text, e.g. "a dog barks"')
    collection = read_collection(path)
    place = str(model or collection.about["checkpoint"])
    try:
        loaded = load(place)
    except CheckpointError as error:
        raise CheckpointError(f"{path} was made with {place}: {error}; name where it is with --model") from error
    if loaded.fingerprint() != collection.about["weights"]:
        raise CheckpointError(
            f"{path} was made with other weights than those in {place} (sha256 {collection.about['weights'][:12]}…, "
            f"here {loaded.fingerprint()[:12]}…): its vectors mean nothing to this model. Give the one that made it "
            "with --model, or run `atr embed` again"
        )
    return search(collection, loaded.encode_text(list(texts)).numpy(), top)


def search(collection: Collection, text: np.ndarray, top: int) -> list[list[Hit]]:
    """The best clips for each text, best first; a clip counts by its best row, equal ones in the file's order.

    Args:
        text: float32 `(M, D)`, unit norm.
        top: clips for each text.
    """
    firsts = collection.firsts()
    ends = np.append(firsts[1:], len(collection.ids))
    faiss = _faiss() if len(collection.ids) >= FAISS_ROWS and len(text) >= FAISS_TEXTS else None
    rows = _by_faiss(faiss, collection, firsts, text, top) if faiss else _by_product(collection, firsts, text, top)
    found = []
    for query, clips in zip(text, rows, strict=True):
        hits = []
        for clip in clips:
            cosines = collection.vectors[firsts[clip] : ends[clip]] @ query
            row = int(firsts[clip]) + int(cosines.argmax())
            times = (float(column[row]) for column in (collection.starts, collection.ends, collection.durations))
            hits.append(Hit(str(collection.ids[row]), float(cosines.max()), *times))
        found.append(sorted(hits, key=lambda hit: -hit.score))
    return found


def _by_product(collection: Collection, firsts: np.ndarray, text: np.ndarray, top: int) -> np.ndarray:
    """Clip numbers `(M, <= top)`, best first, by products of some rows at a time."""
    best, clips = np.empty((len(text), 0), np.float32), np.empty((len(text), 0), np.int64)
    for first, last in _chunks(firsts, len(collection.ids), max(1, PRODUCTS // len(text))):
        begin, end = firsts[first], firsts[last] if last < len(firsts) else len(collection.ids)
        cosines = np.maximum.reduceat(text @ collection.vectors[begin:end].T, firsts[first:last] - begin, axis=1)
        best = np.concatenate([best, cosines], axis=1)
        clips = np.concatenate([clips, np.broadcast_to(np.arange(first, last), cosines.shape)], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :top]
        best, clips = np.take_along_axis(best, order, axis=1), np.take_along_axis(clips, order, axis=1)
    return clips


def _chunks(firsts: np.ndarray, rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of clips of about `size` rows."""
    first = 0
    while first < len(firsts):
        last = max(first + 1, int(np.searchsorted(firsts, firsts[first] + size)))
        yield first, last
        first = last


def _by_faiss(faiss: object, collection: Collection, firsts: np.ndarray, text: np.ndarray, top: int) -> list[list[int]]:
    """The same by FAISS' exact index: so many rows that `top` clips must be among them."""
    index = faiss.IndexFlatIP(collection.vectors.shape[1])  # type: ignore[attr-defined]
    index.add(collection.vectors)
    most = int(np.diff(np.append(firsts, len(collection.ids))).max())
    _, rows = index.search(np.ascontiguousarray(text), min(len(collection.ids), (top - 1) * most + 1))
    clips = np.searchsorted(firsts, rows, side="right") - 1
    return [list(dict.fromkeys(one))[:top] for one in clips.tolist()]


def _faiss() -> object | None:
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def print_hits(texts: Sequence[str], found: Sequence[Sequence[Hit]]) -> None:
    """A table for each text."""
    console = Console()
    for text, hits in zip(texts, found, strict=True):
        table = Table(title=Text(text), title_justify="left")
        for column in ("rank", "score", "clip", "from", "to", "of"):
            table.add_column(column, justify="left" if column == "clip" else "right", overflow="fold")
        for rank, hit in enumerate(hits, 1):
            times = (f"{seconds:.1f} s" for seconds in (hit.start, hit.end, hit.duration))
            table.add_row(str(rank), f"{hit.score:.3f}", Text(hit.id), *times)
        console.print(table)

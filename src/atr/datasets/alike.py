"""Finds clips with the same sound in two sets. The fingerprints of a shard are kept beside it."""

import functools
import os
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from atr.datasets.fingerprint import FingerprintIndex, can_be_matched, sound_words
from atr.datasets.overlap import Found, Leak
from atr.datasets.places import Place, Row, manifest_rows, name_of, shard_rows
from atr.errors import DataError
from atr.pipeline.decode import open_sound
from atr.shards.forks import Task, run_forked
from atr.shards.index import ShardIndex
from atr.shards.progress import clip_bar
from atr.shards.read import ShardSet
from atr.shards.remote import is_remote
from atr.types import BadSample

T = TypeVar("T")
FORMAT = 1  # another one whenever the words of a sound change
LINES = 512  # of a manifest, fingerprinted by one process


@dataclass(frozen=True)
class Part:
    """What one process fingerprints: a shard, or some lines of a manifest."""

    place: Place
    first: int  # number of the shard, or of the line
    offset: int  # byte at which the line begins
    clips: int


@dataclass
class Words:
    """The fingerprints of some clips, and which of them could not be read: clip -> reason."""

    clips: list[np.ndarray]
    bad: dict[int, str] = field(default_factory=dict)


@dataclass
class _Compared:
    """What came out of a part."""

    rows: list[Row] = field(default_factory=list)
    words: list[np.ndarray] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    unmatchable: int = 0
    bad: list[BadSample] = field(default_factory=list)


def find_alike(
    train: Sequence[Place], evaluation: Sequence[Place], same: set[tuple[str, int]], found: Found
) -> list[Leak]:
    """The training clips whose sound is in an evaluation set, or holds one of its clips.

    Several processes take a part each and answer with the matches only.

    Args:
        train, evaluation: as `find_leaks` takes them.
        same: identities of rows that need no comparison.
        found: is told which clips cannot be fingerprinted or read.

    Raises:
        DataError: a place cannot be read.
    """
    known = _in_parts(evaluation, _hear)
    once = {row.identity: (row, one) for part in known for row, one in zip(part.rows, part.words, strict=True)}
    index = FingerprintIndex([one for _, one in once.values()])
    names = [name_of(row) for row, _ in once.values()]
    answers = _in_parts(train, functools.partial(_compare, index=index, names=names, same=same))
    for answer in [*known, *answers]:
        found.unmatchable += answer.unmatchable
        found.bad += answer.bad
    return [leak for answer in answers for leak in answer.leaks]


def _in_parts(places: Sequence[Place], do: Callable[[Part, Callable[[], None]], T]) -> list[T]:
    parts = [part for place in dict.fromkeys(places) for part in _parts(place)]
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    tasks: list[Task[T]] = [functools.partial(do, part) for part in parts]
    with clip_bar(sum(part.clips for part in parts), True) as on_clip:
        if min(processors, len(parts)) > 1:
            return run_forked(tasks, processors, on_clip, functools.partial(_where, parts))
        return [task(on_clip) for task in tasks]


def _parts(place: Place) -> list[Part]:
    if isinstance(place, ShardSet):
        return [Part(place, shard, 0, len(index)) for shard, index in enumerate(place.indexes)]
    parts, offset, number = [], 0, -1
    with place.open("rb") as file:
        for number, line in enumerate(file):
            if number % LINES == 0:
                parts.append(Part(place, number, offset, LINES))
            offset += len(line)
    return parts


def _where(parts: Sequence[Part], number: int, done: int) -> str:
    part = parts[number]
    place = part.place.indexes[part.first].place if isinstance(part.place, ShardSet) else part.place
    return f"{place}, clip {done + 1} of its part"


def _hear(part: Part, on_clip: Callable[[], None]) -> _Compared:
    """The rows of a part with their words; rows that cannot be read have none."""
    place, ignored = part.place, list[BadSample]()  # find_leaks has told of bad lines already
    if isinstance(place, ShardSet):
        first, end = np.searchsorted(place.numbers, place.starts[part.first : part.first + 2]).tolist()
        rows = list(shard_rows(place, ignored, range(first, end)))
        words = shard_words(place, part.first, on_clip)
        inner = [row.identity[1] for row in rows]
    else:
        rows = list(manifest_rows(place, ignored, part.first, part.offset, LINES))
        words = Words([])
        for number, row in enumerate(rows):
            _add(words, number, row.clip.audio, row.clip.start, row.clip.end)
            on_clip()
        inner = list(range(len(rows)))
    own = [words.clips[one] for one in inner]
    bad = [BadSample(name_of(row), words.bad[one]) for row, one in zip(rows, inner, strict=True) if one in words.bad]
    unmatchable = sum(not can_be_matched(words.clips[one]) for one in inner if one not in words.bad)
    return _Compared(rows, own, unmatchable=unmatchable, bad=bad)


def _compare(
    part: Part,
    on_clip: Callable[[], None],
    *,
    index: FingerprintIndex,
    names: Sequence[str],
    same: set[tuple[str, int]],
) -> _Compared:
    """The leaks of a part, without its rows and words, which would have to travel."""
    heard = _hear(part, on_clip)
    leaks = []
    for match in index.search(heard.words):
        row = heard.rows[match.query]
        if row.identity not in same:
            detail = f"{match.seconds:.1f} s alike, {match.error:.0%} of the bits differ"
            leaks.append(Leak(name_of(row), names[match.clip], ("fingerprint",), detail, row.number))
    return _Compared(leaks=leaks, unmatchable=heard.unmatchable, bad=heard.bad)


def shard_words(shards: ShardSet, shard: int, on_clip: Callable[[], None] = lambda: None) -> Words:
    """The fingerprints of all samples of a shard, from the file beside it, or made and stored there."""
    index = shards.indexes[shard]
    path = None if is_remote(index.place) else Path(index.place).with_suffix(".fingerprint.npz")
    if path is not None and (stored := read_words(path, index)) is not None:
        for _ in range(len(index)):
            on_clip()
        return stored
    whole = shards.whole_shard(shard)
    words = Words([])
    for number in range(len(whole)):
        try:
            sound = whole.open_audio(number)
        except DataError as error:
            words.clips.append(np.empty(0, np.uint32))
            words.bad[number] = str(error)
        else:
            _add(words, number, sound or b"")
        on_clip()
    if path is not None:
        try:
            write_words(words, path, index)
        except OSError as error:
            warnings.warn(f"the fingerprints of {index.place} cannot be stored beside it: {error}", stacklevel=2)
    return words


def _add(words: Words, number: int, file: Any, start: float | None = None, end: float | None = None) -> None:
    try:
        with open_sound(file) as sound:
            words.clips.append(sound_words(sound, start, end))
    except (DataError, OSError) as error:
        words.clips.append(np.empty(0, np.uint32))
        words.bad[number] = str(error)


def write_words(words: Words, path: Path, index: ShardIndex) -> None:
    """Stores the fingerprints of a shard; whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            np.savez(
                file, format=FORMAT, size=index.size, sha256=index.sha256,
                words=np.concatenate([*words.clips, np.empty(0, np.uint32)]),
                ends=np.cumsum([len(one) for one in words.clips], dtype=np.int64),
                bad=np.array(list(words.bad), np.int64), reasons=np.array(list(words.bad.values()), np.str_),
            )  # fmt: skip
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_words(path: Path, index: ShardIndex) -> Words | None:
    """The stored fingerprints; None when there are none, they are of another state of the shard, or are damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if (int(stored["format"]), int(stored["size"]), str(stored["sha256"])) != (
                FORMAT,
                index.size,
                index.sha256,
            ):
                return None
            words, ends = stored["words"], stored["ends"]
            bad = dict(zip(stored["bad"].tolist(), map(str, stored["reasons"]), strict=True))
    except Exception:  # of what is damaged in a zip or an array's header, nearly anything is raised
        return None
    whole = words.dtype == np.uint32 and words.ndim == 1 and ends.dtype == np.int64 and ends.shape == (len(index),)
    if not whole or (np.diff(ends, prepend=0) < 0).any() or ends[-1] != len(words):
        return None
    return Words(np.split(words, ends[:-1]), bad)

"""Which clip goes into which shard: decided on disk, so that a corpus of any size fits, and before any sound is read.

Clips are put into the order of a hash of their keys: it depends on nothing but the keys, and mixes what publishers sort
by class or recording, so that reading a few shards at a time is close to reading clips at random.
"""

import hashlib
import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from atr.datasets.manifest import as_line, from_line
from atr.errors import DataError
from atr.shards.write import shard_key
from atr.types import BadSample, Clip


@dataclass(frozen=True)
class Plan:
    """The clips of a split in the order of its shards.

    Attributes:
        path: a manifest of them.
        offsets: where each shard's lines begin in it, bytes; and the end.
        counts: clips of each shard.
        sha256: of the manifest and of the rejected rows.
        rejected: rows that gave no clip.

    A BadSample of 0 clips is a remark about a table, which costs no clip.
    """

    path: Path
    offsets: list[int]
    counts: list[int]
    sha256: str
    rejected: int

    @property
    def clips(self) -> int:
        """Clips in all shards."""
        return sum(self.counts)

    def shard(self, number: int) -> Iterator[Clip]:
        """The clips of one shard."""
        return read_part(self.path, self.offsets[number], self.counts[number])


def read_part(path: Path, offset: int, count: int) -> Iterator[Clip]:
    """`count` clips of a manifest, from a byte on."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in itertools.islice(file, count):
            yield from_line(line, str(path))


def make_plan(
    rows: Iterable[Clip | BadSample],
    folder: Path,
    clips_per_shard: int,
    exclude: frozenset[str] = frozenset(),
    on_row: Callable[[], object] = lambda: None,
) -> Plan:
    """Writes `plan.jsonl`, `rejected.jsonl` and `remarks.jsonl` into `folder`; the same rows give the same files.

    Clips of the same id and the same stretch of sound become one, with all their captions and labels.

    Args:
        rows: clips, and what could not become one.
        folder: must be there.
        clips_per_shard: clips in a shard; the last one may hold fewer.
        exclude: sources whose clips are rejected.
        on_row: is called after each row.
    """
    path, sorter = folder / "plan.jsonl", folder / "plan.sqlite"
    offsets, count, at, bad = [0], 0, 0, 0
    digest = hashlib.sha256()
    sorter.unlink(missing_ok=True)
    database = sqlite3.connect(sorter, isolation_level=None)
    try:
        _sort(rows, database, exclude, on_row)
        with (
            (folder / "rejected.jsonl").open("wb") as rejects,
            (folder / "remarks.jsonl").open("wb") as remarks,
            path.open("wb") as file,
        ):
            for clip in _joined(database):
                if isinstance(clip, BadSample):
                    (rejects if clip.clips else remarks).write(line := as_reject(clip))
                    bad += bool(clip.clips)
                else:
                    if count and count % clips_per_shard == 0:
                        offsets.append(at)
                    at += file.write(line := as_line(clip).encode())
                    count += 1
                digest.update(line)
            for stream in (rejects, remarks, file):
                stream.flush()
                os.fsync(stream.fileno())
    finally:
        database.close()
        sorter.unlink(missing_ok=True)
    full, rest = divmod(count, clips_per_shard)
    counts = [clips_per_shard] * full + ([rest] if rest else [])
    return Plan(path, [*offsets, at], counts, digest.hexdigest(), bad)


def as_reject(bad: BadSample) -> bytes:
    """A line of `rejected.jsonl`."""
    return (json.dumps({"clip": bad.key, "reason": bad.reason}, ensure_ascii=True) + "\n").encode()


def line_of(clip: Clip, exclude: frozenset[str]) -> bytes | BadSample:
    """A clip's line of a manifest, or why there is none."""
    if clip.source and clip.source in exclude:
        return BadSample(clip.id, f"its source {clip.source!r} is on an exclusion list")
    if not clip.id:
        return BadSample(clip.audio, "its id is empty; give it one")
    try:
        return as_line(clip).encode()
    except DataError:  # the key says which, and the counted reasons stay one
        reason = "its name, its text or a number cannot be written as JSON in UTF-8; rename it, or give the encoding"
        return BadSample(clip.id, reason)


def _sort(
    rows: Iterable[Clip | BadSample],
    database: sqlite3.Connection,
    exclude: frozenset[str],
    on_row: Callable[[], object],
) -> None:
    """Puts all rows into the database; SQLite sorts them on disk when they are read."""
    database.execute("PRAGMA journal_mode=OFF")
    database.execute("PRAGMA synchronous=OFF")
    database.execute("CREATE TABLE rows (place BLOB, key TEXT, line BLOB)")
    database.execute("BEGIN")
    for row in rows:
        line = line_of(row, exclude) if isinstance(row, Clip) else row
        if isinstance(line, BadSample):
            database.execute("INSERT INTO rows VALUES (?, NULL, ?)", (bytes([line.clips > 0]), as_reject(line)))
        elif isinstance(row, Clip):
            key = shard_key(row.id)
            place = hashlib.blake2b(key.encode(), digest_size=16).digest()
            database.execute("INSERT INTO rows VALUES (?, ?, ?)", (place, key, line))
        on_row()
    database.execute("COMMIT")


def _joined(database: sqlite3.Connection) -> Iterator[Clip | BadSample]:
    """All rows in the plan's order; those of one key become one clip, or all but the first are rejected."""
    for counts, line in database.execute("SELECT place, line FROM rows WHERE key IS NULL ORDER BY line"):
        row = json.loads(line)
        yield BadSample(row["clip"], row["reason"], counts[0])
    ordered = database.execute("SELECT key, line FROM rows WHERE key IS NOT NULL ORDER BY place, rowid")
    for key, group in itertools.groupby(ordered, lambda row: row[0]):
        clips = [from_line(line, key) for _, line in group]
        first = min(clips, key=_identity)  # the same one in whatever order folders are read
        for other in clips:
            if _identity(other) != _identity(first):
                yield BadSample(
                    other.id,
                    f"gives the same key {key!r} as {first.id!r} ({_stretch(first)}) and is another sound "
                    f"({_stretch(other)}); ids must differ in letters, digits, - or _",
                )
        same = [clip for clip in clips if _identity(clip) == _identity(first)]
        yield same[0] if len(same) == 1 else _join(same)


def _identity(clip: Clip) -> tuple[str, str, float, float]:
    return (clip.id, clip.audio, clip.start or 0.0, -1.0 if clip.end is None else clip.end)


def _stretch(clip: Clip) -> str:
    cut = "" if clip.start is None and clip.end is None else f" from {clip.start or 0:g} s"
    return f"{clip.audio}{cut}"


def _join(clips: list[Clip]) -> Clip:
    """One clip of several rows: their captions, labels, events and questions, each once, in the rows' order."""
    return replace(
        clips[0],
        captions=list(dict.fromkeys(text for clip in clips for text in clip.captions)),
        labels=list(dict.fromkeys(label for clip in clips for label in clip.labels)),
        events=list(dict.fromkeys(event for clip in clips for event in clip.events)),
        questions=list(dict.fromkeys(pair for clip in clips for pair in clip.questions)),
    )

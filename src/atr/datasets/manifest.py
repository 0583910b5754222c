"""Manifests: clips as JSON, a line each."""

import dataclasses
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NoReturn

from atr.errors import DataError
from atr.pipeline.text import captions_of, labels_of
from atr.shards.read import ShardSet
from atr.types import BadSample, Clip

FIELDS = {one.name: one for one in dataclasses.fields(Clip)}
LONGEST_LINE = 1 << 24  # bytes
_LONGEST_TIME = 1e9  # s; JSON has numbers of any size
_ALLOWED = {
    "captions": "a list of texts",
    "labels": "a list of texts",
    "duration": "seconds, 0 or more, or null",
    "start": "seconds, 0 or more, or null",
    "end": "seconds, 0 or more, or null",
    "sample_rate": "a whole number of Hz above 0, or null",
    "events": "a list of [caption, onset, offset], times in seconds, 0 or more",
    "questions": "a list of [question, answer]",
}  # the others are texts


def write_manifest(clips: Iterable[Clip], path: Path) -> None:
    """Writes a manifest, whole or not at all. Fields that are empty are left out.

    Raises:
        DataError: a clip cannot be written as JSON; its id is named.
        OSError: the file cannot be stored; an older one of this name stays as it is.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            for clip in clips:
                file.write(as_line(clip).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def as_line(clip: Clip) -> str:
    """A clip's line of a manifest.

    Raises:
        DataError: a text is no Unicode, or a number not finite.
    """
    row = {name: value for name, value in dataclasses.asdict(clip).items() if value not in (None, "", [])}
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        line.encode()
    except ValueError as error:
        raise DataError(f"clip {clip.id!r} cannot be written to a manifest ({error})") from error
    return line


def read_manifest(path: Path, bad: list[BadSample] | None = None) -> Iterator[Clip]:
    """The clips of a manifest, one at a time. A byte order mark and blank lines are skipped.

    Args:
        path: UTF-8, a clip's JSON in each line.
        bad: takes the lines that are no clips, as `file:line`; without it the first one raises.

    Raises:
        DataError: the file cannot be read, or a line is no clip; the message names file, line, field, what is allowed.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{path}:{number}: is longer than {LONGEST_LINE} bytes; is this a manifest?")
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    yield from _good(partial(from_line, line), f"{path}:{number}", bad)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_clips(place: Path, bad: list[BadSample] | None = None) -> Iterator[Clip]:
    """The clips of a manifest, or of a folder of shards.

    Of a shard, `audio` is the name of the file without its folder; `duration` and `sample_rate` are those
    of the sound in the shard.

    Args:
        place: the manifest, the folder or one tar.
        bad: takes what is no clip or lost in a damaged tar; without it the first one that is no clip raises.

    Raises:
        DataError: it is neither, or a sample's json is no clip's.
    """
    if is_manifest(place):
        yield from read_manifest(place, bad)
        return
    shards = ShardSet([place])
    if bad is not None:
        bad += shards.lost
    for number in range(len(shards)):
        yield from _good(partial(_of_shard, shards, number), shards.name(number), bad)


def is_manifest(place: Path) -> bool:
    """Is it a manifest's path, rather than a folder's or a tar's?"""
    return place.suffix in (".jsonl", ".json") or (place.is_file() and place.suffix != ".tar")


def from_line(line: str | bytes, where: str) -> Clip:
    """A line of a manifest -> its clip.

    Raises:
        DataError: it is none.
    """
    try:
        row = json.loads(line.decode() if isinstance(line, bytes) else line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is no JSON in UTF-8 ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: is a {type(row).__name__}, not an object with the fields of a clip")
    if missing := [name for name in ("id", "audio") if not isinstance(row.get(name), str) or not row[name]]:
        raise DataError(f"{where}: needs {' and '.join(missing)}, as text")
    if unknown := sorted(set(row) - set(FIELDS)):
        raise DataError(f"{where}: has the unknown field {unknown[0]!r}; a clip has {', '.join(FIELDS)}")
    return _clip(row, where)


def from_metadata(meta: dict[str, Any], name: str) -> Clip:
    """The json of a sample in a shard, whoever wrote it -> its clip; `name` is the sample's, for `id` and messages.

    `text` and `tag` are lists or one text; other fields of a clip count if they are set.

    Raises:
        DataError: a field has another type than a clip's.
    """
    row = {field: value for field, value in meta.items() if field in FIELDS and value is not None}
    key = name.rpartition(":")[2]
    try:
        row |= {"captions": captions_of({"text": meta.get("text") or []}), "labels": labels_of(meta)}
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    row["audio"] = PurePath(str(meta.get("file") or key)).name
    if not isinstance(row.get("id"), str):
        row["id"] = key
    return _clip(row, name)


def _of_shard(shards: ShardSet, number: int, where: str) -> Clip:
    try:
        meta = shards.metadata(number)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    clip = from_metadata(meta, where)
    frames, rate = shards.length(number)
    return dataclasses.replace(clip, duration=frames / rate, sample_rate=rate) if frames and rate else clip


def _good(read: Callable[[str], Clip], where: str, bad: list[BadSample] | None) -> Iterator[Clip]:
    """What `read` gives; nothing, and one more in `bad`, where it raises."""
    try:
        clip = read(where)
    except DataError as error:
        if bad is None:
            raise
        bad.append(BadSample(where, str(error).removeprefix(f"{where}: ")))
    else:
        yield clip


def _clip(row: dict[str, Any], where: str) -> Clip:
    """Checks the types: JSON has fewer than Python, and manifests are written by people, too."""
    for name, value in row.items():
        if not _is_right(name, value):
            shown = repr(value) if len(repr(value)) <= 80 else f"{value!r:.80}…"
            raise DataError(f"{where}: {name} is {shown}; allowed is {_ALLOWED.get(name, 'a text')}")
    pairs: dict[str, Any] = {n: [tuple(one) for one in row[n]] for n in ("events", "questions") if n in row}
    return Clip(**(row | pairs))


def _is_right(name: str, value: Any) -> bool:
    match name:
        case "captions" | "labels":
            return isinstance(value, list) and all(map(_is_text, value))
        case "duration" | "start" | "end":
            return value is None or _is_time(value)
        case "sample_rate":
            return value is None or (type(value) is int and 0 < value < 1 << 31)
        case "events":
            return isinstance(value, list) and all(_is_row(one, _is_text, _is_time, _is_time) for one in value)
        case "questions":
            return isinstance(value, list) and all(_is_row(one, _is_text, _is_text) for one in value)
    return _is_text(value)


def _is_row(value: Any, *cells: Callable[[Any], bool]) -> bool:
    right = isinstance(value, list | tuple) and len(value) == len(cells)
    return right and all(is_right(cell) for is_right, cell in zip(cells, value, strict=True))


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < _LONGEST_TIME


def _is_text(value: Any) -> bool:
    """No half of a surrogate pair either, which JSON can spell and no file can hold."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON's")

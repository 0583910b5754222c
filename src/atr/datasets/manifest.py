"""Manifests: clips as JSON, a line each."""

import dataclasses
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from atr.errors import DataError
from atr.shards.read import ShardSet
from atr.types import Clip

FIELDS = {one.name: one for one in dataclasses.fields(Clip)}
_TEXTS = ("captions", "labels")
_NUMBERS = ("duration", "start", "end")  # s


def write_manifest(clips: Iterable[Clip], path: Path) -> None:
    """Writes a manifest, whole or not at all. Fields that are empty are left out."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for clip in clips:
                file.write(as_line(clip))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def as_line(clip: Clip) -> str:
    """A clip's line of a manifest."""
    row = {name: value for name, value in dataclasses.asdict(clip).items() if value not in (None, "", [])}
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_manifest(path: Path) -> Iterator[Clip]:
    """The clips of a manifest, one at a time.

    Raises:
        DataError: a line is no clip; the message names file, line, field and what is allowed.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield from_line(line, f"{path}:{number}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_clips(place: Path) -> Iterator[Clip]:
    """The clips of a manifest, or of a folder of shards (then `audio` is the name of the file, without its folder).

    Raises:
        DataError: it is neither, or a sample's json is no clip's.
    """
    if place.is_file() and place.suffix != ".tar":
        yield from read_manifest(place)
        return
    shards = ShardSet([place])
    for number in range(len(shards)):
        yield from_metadata(shards.metadata(number), shards.name(number))


def from_line(line: str | bytes, where: str) -> Clip:
    """A line of a manifest -> its clip.

    Raises:
        DataError: it is none.
    """
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: is a {type(row).__name__}, not an object with the fields of a clip")
    if missing := [name for name in ("id", "audio") if not isinstance(row.get(name), str) or not row[name]]:
        raise DataError(f"{where}: needs {' and '.join(missing)}, as text")
    if unknown := sorted(set(row) - set(FIELDS)):
        raise DataError(f"{where}: has the unknown field {unknown[0]!r}; a clip has {', '.join(FIELDS)}")
    return _clip(row, where)


def from_metadata(meta: dict[str, Any], name: str) -> Clip:
    """The json of a sample in a shard, whoever wrote it -> its clip; `name` is the sample's, for `id` and messages."""
    row = {field: value for field, value in meta.items() if field in FIELDS and field not in ("captions", "labels")}
    texts, labels = meta.get("text") or [], meta.get("tag") or []
    row["captions"] = [texts] if isinstance(texts, str) else texts
    row["labels"] = [labels] if isinstance(labels, str) else labels
    row["audio"] = str(meta.get("file", ""))
    if not isinstance(row.get("id"), str):
        row["id"] = name.rpartition(":")[2]
    return _clip(row, name)


def _clip(row: dict[str, Any], where: str) -> Clip:
    """Checks the types: JSON has fewer than Python, and manifests are written by people, too."""
    for name, value in row.items():
        if name in _TEXTS:
            right = isinstance(value, list) and all(isinstance(text, str) for text in value)
        elif name in _NUMBERS:
            right = value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value >= 0)
        elif name == "sample_rate":
            right = value is None or (isinstance(value, int) and value > 0)
        elif name == "events":
            right = isinstance(value, list) and all(_is_event(one) for one in value)
        elif name == "questions":
            right = isinstance(value, list) and all(
                isinstance(one, list | tuple) and len(one) == 2 and all(isinstance(text, str) for text in one)
                for one in value
            )
        else:
            right = isinstance(value, str)
        if not right:
            raise DataError(f"{where}: {name} is {value!r}; allowed is {FIELDS[name].type}")
    pairs: dict[str, Any] = {n: [tuple(one) for one in row[n]] for n in ("events", "questions") if n in row}
    return Clip(**(row | pairs))


def _is_event(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and isinstance(value[0], str)
        and all(isinstance(time, int | float) for time in value[1:])
    )

"""The clips of manifests and of shards as rows of one kind."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atr.datasets.manifest import from_line, from_metadata, is_manifest
from atr.errors import DataError
from atr.shards.read import ShardSet
from atr.shards.remote import is_remote
from atr.shards.transfer import shown
from atr.types import BadSample, Clip

Place = ShardSet | Path  # shards, or a manifest


@dataclass(frozen=True)
class Row:
    """A clip of a set: in which manifest or tar it stands, at which number of the set, and what it is."""

    place: str
    number: int
    identity: tuple[str, int]  # the same for the same line of a manifest, and for the same sample of equal tars
    clip: Clip


def open_place(place: Path | str) -> Place:
    """A manifest's path, or the shards of a folder or tar.

    Raises:
        DataError: it is neither, or not on this machine.
    """
    path = on_this_machine(place)
    return path if is_manifest(path) else ShardSet([place])


def on_this_machine(place: Path | str) -> Path:
    """The path of a place.

    Raises:
        DataError: it is a URL.
    """
    if is_remote(str(place)):
        raise DataError(f"{shown(str(place))} is remote; copy its shards or its manifest to this machine first")
    return Path(place)


def rows(place: Place, bad: list[BadSample]) -> Iterator[Row]:
    """The clips of a place; those whose line or json is none go to `bad`."""
    yield from shard_rows(place, bad) if isinstance(place, ShardSet) else manifest_rows(place, bad)


def name_of(row: Row) -> str:
    """How a leak calls a clip."""
    return f"{row.place}:{row.clip.id}"


def shard_rows(shards: ShardSet, bad: list[BadSample], numbers: Sequence[int] | None = None) -> Iterator[Row]:
    """The clips of shards, or those of these numbers."""
    numbers = range(len(shards)) if numbers is None else numbers
    shard_of = np.searchsorted(shards.starts, shards.numbers[numbers], side="right") - 1
    for number, shard in zip(numbers, shard_of.tolist(), strict=True):
        index, inner = shards.indexes[shard], int(shards.numbers[number] - shards.starts[shard])
        name = shards.name(number)
        try:
            clip = from_metadata(shards.metadata(number), name)
        except DataError as error:
            bad.append(_bad(name, error))
            continue
        yield Row(name.removesuffix(f":{index.key(inner)}"), number, (index.sha256, inner), clip)


def manifest_rows(
    path: Path, bad: list[BadSample], first: int = 0, offset: int = 0, lines: int | None = None
) -> Iterator[Row]:
    """The clips of a manifest, or of some `lines` of it: line `first` begins at byte `offset`."""
    resolved = str(path.resolve())
    try:
        with path.open("rb") as file:
            file.seek(offset)
            for number, line in enumerate(itertools.islice(file, lines), first):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
                if not line.strip():
                    continue
                try:
                    yield Row(str(path), number, (resolved, number), from_line(line, f"{path}:{number + 1}"))
                except DataError as error:
                    bad.append(_bad(f"{path}:{number + 1}", error))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _bad(name: str, error: DataError) -> BadSample:
    return BadSample(name, str(error).removeprefix(f"{name}: "))

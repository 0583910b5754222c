"""Where the clips of an evaluation set lie: shards, folders of sounds, tables."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from atr.datasets import csv, folder, jsonl
from atr.datasets.corpus import Raw
from atr.datasets.manifest import from_metadata
from atr.datasets.own import ALL
from atr.errors import DataError, UsageError
from atr.inference import Sound
from atr.pipeline.decode import open_sound
from atr.shards.read import ShardSet
from atr.shards.remote import is_remote
from atr.shards.transfer import PIPE, split_query
from atr.types import BadSample, Clip

TABLES = {".csv": csv, ".tsv": csv, ".jsonl": jsonl, ".ndjson": jsonl}


@dataclass
class Found:
    """A clip, and where it was found.

    Attributes:
        clip: of it `id`, `captions`, `labels`, `title` and `source` count.
        open: opens its sound.
        size: of its file, bytes.
        place: what its fold is called after, a path or URL without its end.
        where: what messages call it.
        row: it is a row of a table, where several rows of one sound are one clip.
        nameless: its id is its key in a tar, which need not be unique.
    """

    clip: Clip
    open: Callable[[], Sound | None]
    size: int
    place: str
    where: str
    row: bool = False
    nameless: bool = False


def holds_shards(place: str | Path) -> bool:
    """Is it for `ShardSet`, which also says what is wrong with a folder whose folders hold the shards?"""
    path = Path(place)
    return is_remote(str(place)) or path.suffix == ".tar" or any(path.glob("*.tar")) or any(path.glob("*/*.tar"))


def is_table(place: str | Path) -> bool:
    """Is it called like a table?"""
    return Path(place).suffix.lower() in TABLES


def in_shards(shards: ShardSet, given: str | Path, bad: list[BadSample]) -> Iterator[Found]:
    """The samples of shards by their json.

    Args:
        given: the place that they were opened by; a local tar is a place of its own.
        bad: takes those whose json is none, and what the tars have lost.
    """
    bad += shards.lost
    rows: list[Found] = []
    nameless: dict[str, list[Found]] = {}  # by key
    is_tar = str(given).endswith(".tar") and not is_remote(str(given))
    own = str(Path(given).absolute().with_suffix("")) if is_tar else ""
    for number, shard in enumerate(shards.shard_of().tolist()):
        index, row, where = (
            shards.indexes[shard],
            int(shards.numbers[number] - shards.starts[shard]),
            shards.name(number),
        )
        try:
            meta = shards.metadata(number)
            clip = from_metadata(meta, where)
        except DataError as error:
            bad.append(BadSample(where, str(error).removeprefix(f"{where}: ")))
            continue
        opened, size = functools.partial(shards.open_audio, number), int(index.rows[row]["audio_size"])
        rows.append(Found(clip, opened, size, own or _folder(index.place), where))
        if not isinstance(meta.get("id"), str) or not meta["id"]:
            nameless.setdefault(index.key(row), []).append(rows[-1])
    for key, same in nameless.items():  # LAION's keys are numbers, which begin anew in each tar
        for one in same:
            tar = Path(one.where.rpartition(":")[0]).name
            one.clip = replace(one.clip, id=key if len(same) == 1 else f"{tar}:{key}")
            one.nameless = True
    yield from rows


def _folder(tar: str) -> str:
    """The folder of a tar, or of its URL without a query."""
    if tar.startswith(PIPE):
        return "pipe"
    return (split_query(tar)[0] if is_remote(tar) else str(Path(tar).absolute())).rpartition("/")[0]


def in_files(raw: Raw, splits: Sequence[str], bad: list[BadSample]) -> Iterator[Found]:
    """The clips of a folder of sounds, or of a table.

    Args:
        splits: which ones; all when empty.
        bad: takes the rows and sounds that give no clip.

    Raises:
        DataError: it is neither.
        UsageError: there is no such split.
    """
    if not raw.root.exists():
        raise DataError(f"{raw.root}: no such folder or table")
    if raw.root.is_file() and not is_table(raw.root):
        raise DataError(f"{raw.root} is no evaluation set; allowed are folders, .tar and {', '.join(TABLES)}")
    reader: ModuleType = TABLES[raw.root.suffix.lower()] if raw.root.is_file() else folder
    there = reader.splits(raw)
    if unknown := [split for split in splits if split not in there]:
        raise UsageError(f"{raw.root} has no split {unknown[0]!r}; there are: {', '.join(there)}")
    place = raw.root.with_suffix("") if raw.root.is_file() else raw.root
    for split in splits or there:
        for row in reader.read(raw, split):
            if isinstance(row, BadSample):
                bad.append(row)
            else:
                yield _of_file(row, str(place if split == ALL else place / split), reader is not folder)


def _of_file(clip: Clip, place: str, row: bool) -> Found:
    path = Path(clip.audio)
    size = path.stat().st_size if path.is_file() else 0  # a link that leads nowhere; opening it tells
    cut = clip.start is not None or clip.end is not None
    opened: Callable[[], Sound] = functools.partial(_stretch, clip) if cut else functools.partial(str, clip.audio)
    return Found(clip, opened, size, place, clip.audio, row)


def _stretch(clip: Clip) -> Sound:
    """The samples of a clip that is a part of its file, float32 `(frames, channels)`, and their rate in Hz.

    Raises:
        DataError: the file cannot be read, or has nothing there.
    """
    with open_sound(clip.audio) as sound:
        first = round((clip.start or 0.0) * sound.rate)
        last = sound.frames if clip.end is None else min(sound.frames, round(clip.end * sound.rate))
        samples = sound.read(first, last - first) if last > first else None
        if samples is None or not len(samples):
            end = "its end" if clip.end is None else f"{clip.end:g} s"
            raise DataError(f": no samples in {clip.audio} between {clip.start or 0:g} s and {end}")
        return samples, sound.rate


def told_apart(found: Sequence[Found]) -> list[Found]:
    """Clips whose only name is a key that stands in several places get the place before it."""
    places: dict[str, set[str]] = {}
    for one in found:
        places.setdefault(one.clip.id, set()).add(one.place)
    return [
        replace(one, clip=replace(one.clip, id="/".join([*one.place.split("/")[-2:], one.clip.id])))
        if one.nameless and len(places[one.clip.id]) > 1
        else one
        for one in found
    ]


def joined(first: Found, second: Found) -> Found:
    """Rows of a table with the same id and sound as one clip.

    Raises:
        DataError: they are two clips.
    """
    one, other = first.clip, second.clip
    same = (one.audio, one.start, one.end) == (other.audio, other.start, other.end)
    if not (first.row and second.row and same and first.place == second.place):
        raise DataError(
            f"two clips have the id {one.id!r}: {first.where} and {second.where}; ids must be unique in an evaluation "
            "set: name each place once, or rename one of them"
        )
    captions = list(dict.fromkeys([*one.captions, *other.captions]))
    labels = list(dict.fromkeys([*one.labels, *other.labels]))
    return replace(first, clip=replace(one, captions=captions, labels=labels))

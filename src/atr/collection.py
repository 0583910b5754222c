"""A collection of embedded clips: where its sounds come from, and the file that it is kept in."""

import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atr.datasets.folder import sounds_below
from atr.datasets.places import on_this_machine
from atr.errors import DataError, UsageError
from atr.inference import Source
from atr.shards.read import ShardSet
from atr.shards.scan import AUDIO_SUFFIXES
from atr.types import BadSample

FORMAT = 1
SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True)
class Item(Source):
    """A sound of a collection; `name` is its id.

    Attributes:
        size: of the file, bytes.
    """

    size: int


@dataclass
class Collection:
    """Embedded clips: a row for each clip, or for each of its windows, one after the other.

    Attributes:
        ids: of the rows' clips, str `(R,)`.
        starts, ends: the stretch of the clip that a row stands for, s, float64 `(R,)`.
        durations: of the clips, s, float64 `(R,)`.
        vectors: float32 `(R, D)`, unit norm.
        bad: what could not be embedded.
        remarks: what a user should know about clips that could: id and remark.
        about: which model and settings made it; see `embed`.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    durations: np.ndarray
    vectors: np.ndarray
    bad: list[BadSample] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def firsts(self) -> np.ndarray:
        """The first row of each clip, int64."""
        new = self.ids[1:] != self.ids[:-1]
        return np.flatnonzero(np.concatenate([[len(self.ids) > 0], new]))


def find_sounds(places: Sequence[str | Path], whole: bool = False) -> tuple[list[Item], list[BadSample], list[str]]:
    """The sounds of folders (at any depth, sorted), files and shards, in the order of the places.

    A sound's id is its path below its folder, or its key in the shards (with the tar's name where keys are not
    unique); of several places, or with `whole`, the ids of files begin with the place.

    Returns:
        The sounds, what is lost in damaged shards, and what a quarantine leaves out.

    Raises:
        DataError: a place is not there or holds no sounds.
        UsageError: a sound is named twice.
    """
    items: list[Item] = []
    lost: list[BadSample] = []
    left_out: list[str] = []
    for place in places:
        path = on_this_machine(place)
        if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
            shards = ShardSet([path])
            items += _in_shards(shards)
            lost += shards.lost
            left_out += [one.key for one in shards.quarantined]
        elif path.is_dir():
            bare = len(places) == 1 and not whole
            found = [_file(one, one.relative_to(path) if bare else one) for one in sounds_below(path, set())]
            if not found:
                raise DataError(f"{path} holds no sound files and no shards; suffixes are {', '.join(AUDIO_SUFFIXES)}")
            items += found
        elif path.is_file():
            items.append(_file(path, path))
        else:
            raise DataError(f"{path}: no such file or folder")
    names = set[str]()
    for item in items:
        if item.name in names:
            raise UsageError(f"{item.name!r} stands for two sounds; name each place once, or embed them separately")
        names.add(item.name)
    return items, lost, left_out


def _file(path: Path, name: Path) -> Item:
    try:
        size = path.stat().st_size
    except OSError:  # a link that leads nowhere; opening it tells
        size = 0
    printable = os.fsencode(name.as_posix()).decode(errors="backslashreplace")
    return Item(printable, functools.partial(_path, str(path)), size)


def _path(path: str) -> str:
    return path


def _in_shards(shards: ShardSet) -> list[Item]:
    rows = []
    for number, shard in enumerate(shards.shard_of().tolist()):
        index, row = shards.indexes[shard], int(shards.numbers[number] - shards.starts[shard])
        rows.append((index.key(row), Path(index.place).name, int(index.rows[row]["audio_size"])))
    unique = len({key for key, _, _ in rows}) == len(rows)
    return [
        Item(key if unique else f"{tar}:{key}", functools.partial(shards.open_audio, number), size)
        for number, (key, tar, size) in enumerate(rows)
    ]


def digest(items: Sequence[Item]) -> str:
    """A hash of the ids and sizes of sounds."""
    lines = "\n".join(f"{item.size} {item.name}" for item in items)
    return hashlib.sha256(lines.encode()).hexdigest()


def join_collections(parts: Sequence[Collection], about: dict[str, Any], lost: Sequence[BadSample]) -> Collection:
    """The rows of the parts, one part after the other."""
    columns = ("ids", "starts", "ends", "durations", "vectors")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    bad = [one for part in parts for one in part.bad]
    return Collection(
        **joined, bad=[*bad, *lost], remarks=[one for part in parts for one in part.remarks], about=about
    )  # fmt: skip


def check_out(path: Path) -> None:
    """Refuses a file that a collection cannot be written into.

    Raises:
        UsageError: another suffix, no folder, or parquet without pyarrow.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--out {path}: its suffix must be one of {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--out {path}: its folder does not exist; make it first")
    if path.suffix == ".parquet":
        _pyarrow(path)


def write_collection(collection: Collection, path: Path) -> None:
    """Writes a `.npz` or `.parquet`, whole or not at all; the same collection gives the same bytes.

    Raises:
        DataError: it cannot be stored.
        UsageError: parquet without pyarrow.
    """
    write = _write_parquet if path.suffix == ".parquet" else _write_npz
    with whole_file(path) as part:
        write(collection, part)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, whose place it takes at the end, synced; after an error nothing of it is left.

    Raises:
        DataError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.new")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        part.unlink(missing_ok=True)


def read_collection(path: Path) -> Collection:
    """Reads what `write_collection` wrote. No pickled object is ever opened.

    Raises:
        DataError: it is not there, damaged, or another kind of file.
        UsageError: parquet without pyarrow.
    """
    if not path.is_file():
        raise DataError(f"{path} is not there; `atr embed CHECKPOINT FOLDER --out {path}` makes it")
    try:
        collection = _read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(
            f"{path} is no collection of embeddings, or damaged ({type(error).__name__}: {error}); make it with "
            "`atr embed`"
        ) from error
    rows = {len(collection.ids), len(collection.starts), len(collection.ends), len(collection.durations)}
    if collection.vectors.ndim != 2 or rows != {len(collection.vectors)} or collection.vectors.dtype != np.float32:
        raise DataError(f"{path} is no collection of embeddings: its columns do not fit; make it with `atr embed`")
    return collection


def _facts(collection: Collection) -> str:
    """What is no column, as JSON."""
    bad = [[one.key, one.reason, one.clips] for one in collection.bad]
    return json.dumps({"about": collection.about, "bad": bad, "remarks": collection.remarks}, sort_keys=True)


def _from_facts(text: str, **columns: np.ndarray) -> Collection:
    facts = json.loads(text)
    if facts["about"].get("format", FORMAT) != FORMAT:
        raise ValueError(f"format {facts['about']['format']}, this version of atr reads {FORMAT}")
    bad = [BadSample(str(key), str(reason), int(clips)) for key, reason, clips in facts["bad"]]
    remarks = [(str(name), str(remark)) for name, remark in facts["remarks"]]
    return Collection(**columns, bad=bad, remarks=remarks, about=facts["about"])


def _write_npz(collection: Collection, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(
            file, ids=collection.ids, starts=collection.starts, ends=collection.ends, durations=collection.durations,
            vectors=collection.vectors, facts=np.array(_facts(collection)),
        )  # fmt: skip


def _read_npz(path: Path) -> Collection:
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in ("ids", "starts", "ends", "durations", "vectors")}
        return _from_facts(str(file["facts"]), **columns)


def _write_parquet(collection: Collection, path: Path) -> None:
    pa = _pyarrow(path)
    from pyarrow import parquet

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(collection.vectors.ravel()), collection.vectors.shape[1])
    columns = {
        "id": pa.array(collection.ids.tolist(), pa.string()), "start": pa.array(collection.starts),
        "end": pa.array(collection.ends), "duration": pa.array(collection.durations), "vector": vectors,
    }  # fmt: skip
    table = pa.table(columns).replace_schema_metadata({"atr": _facts(collection)})
    parquet.write_table(table, path)


def _read_parquet(path: Path) -> Collection:
    pa = _pyarrow(path)
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    vectors = table["vector"].combine_chunks()
    flat = vectors.flatten().to_numpy().reshape(len(table), -1)
    numbers = {name: table[name].to_numpy() for name in ("start", "end", "duration")}
    return _from_facts(
        (table.schema.metadata or {})[b"atr"].decode(), ids=np.array(table["id"].to_pylist(), dtype=np.str_),
        starts=numbers["start"], ends=numbers["end"], durations=numbers["duration"], vectors=flat,
    )  # fmt: skip


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UsageError(f'{path}: parquet needs pyarrow: pip install "atr[data]", or take a .npz') from None
    return pyarrow

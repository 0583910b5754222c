"""Index -> bytes: any sample of any number of shard folders by its number."""

import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import track

from atr.errors import DataError
from atr.shards.cache import ShardCache
from atr.shards.index import AUDIO_SUFFIXES, ShardIndex, build_index, from_json, load_index, read_index, write_index
from atr.shards.remote import fetch_small, is_remote, list_remote
from atr.shards.transfer import shown
from atr.types import BadSample

OPEN_FILES = 128  # per set and process; systems often allow 1024 in all
WHOLE = 1 << 20  # bytes; smaller members are read at once, larger ones as they are needed
BUFFER = 1 << 16  # bytes read at a time from a larger member
Folders = Sequence[str | Path] | Mapping[str, Sequence[str | Path]]


class ShardSet:
    """The samples of several shard folders as one numbered sequence.

    Opening reads the indexes only. Files are opened on first use in each process; reads use `pread`, so a
    fork shares nothing that moves.

    Args:
        folders: folders, tars, URLs; or those of several corpora by name.
        cache: where remote shards are kept; needed only for them.

    Attributes:
        corpora: names of the corpora; one empty name when `folders` has no names.
        lost: what stands in the tars and cannot be read, by full name.

    Raises:
        DataError: a folder is missing or holds no shard.
    """

    def __init__(self, folders: Folders, cache: ShardCache | None = None) -> None:
        named = folders if isinstance(folders, Mapping) else {"": folders}
        if not named or not all(named.values()):
            raise DataError("no shard folder given; name at least one, e.g. data.train=[data/esc10/fold1]")
        self.cache = cache
        places = [(corpus, place) for corpus, name in enumerate(named) for f in named[name] for place in find_shards(f)]
        self.corpora = list(named)
        self.indexes = open_indexes([place for _, place in places], cache)
        self.corpus_of_shard = np.array([corpus for corpus, _ in places])
        self.starts = np.cumsum([0, *(len(index) for index in self.indexes)])
        self.numbers = np.arange(self.starts[-1])  # the samples kept
        self.lost = [
            BadSample(f"{shown(index.place)}:{one.key}", one.reason) for index in self.indexes for one in index.lost
        ]
        for folder in dict.fromkeys(str(folder) for name in named for folder in named[name]):
            self.lost += _missing(self.indexes, folder)
        self._files: dict[tuple[int, int], int] = {}  # (process, shard) -> file descriptor

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, number: int) -> str:
        """How messages call a sample: the tar's path and the sample's key."""
        shard, row = self._place(number)
        return f"{shown(self.indexes[shard].place)}:{self.indexes[shard].key(row)}"

    def corpus(self, number: int) -> str:
        """The corpus a sample belongs to."""
        return self.corpora[self.corpus_of_shard[self._place(number)[0]]]

    def shard_of(self) -> np.ndarray:
        """The shard of each sample, int64 `(N,)`."""
        return np.searchsorted(self.starts, self.numbers, side="right") - 1

    def suffix(self, number: int) -> str:
        """The sound file's suffix, e.g. `flac`."""
        shard, row = self._place(number)
        return AUDIO_SUFFIXES[self.indexes[shard].rows[row]["suffix"]]

    def audio(self, number: int) -> bytes:
        """The sound file of a sample, undecoded; empty when the tar holds none."""
        shard, row = self._place(number)
        return self._read(shard, "audio", row)

    def open_audio(self, number: int) -> BinaryIO | None:
        """The sound file of a sample as an open file that reads what is asked for; None when there is none."""
        shard, row = self._place(number)
        size = int(self.indexes[shard].rows[row]["audio_size"])
        if size <= WHOLE:
            return io.BytesIO(self._read(shard, "audio", row)) if size else None
        offset = int(self.indexes[shard].rows[row]["audio_offset"])
        return io.BufferedReader(_Member(self, shard, offset, size), BUFFER)

    def metadata(self, number: int) -> dict[str, Any]:
        """The json of a sample; empty when the tar holds none.

        Raises:
            DataError: it is not a json object.
        """
        shard, row = self._place(number)
        if self.indexes[shard].rows[row]["json_size"] == 0:
            return {}
        try:
            meta = json.loads(self._read(shard, "json", row))
        except ValueError as error:
            raise DataError(f"its json cannot be read ({error})") from error
        if not isinstance(meta, dict):
            raise DataError(f"its json is a {type(meta).__name__}, not an object")
        return meta

    def another(self, number: int, rng: np.random.Generator) -> int:
        """The number of a random sample of the same corpus."""
        shards = np.flatnonzero(self.corpus_of_shard == self.corpus_of_shard[self._place(number)[0]])
        edges = np.searchsorted(self.numbers, (self.starts[shards[0]], self.starts[shards[-1] + 1]))
        return int(rng.integers(*edges))

    def select(self, numbers: Sequence[int]) -> None:
        """Keeps only these samples; in ascending order."""
        self.numbers = self.numbers[np.asarray(numbers, dtype=np.int64)]

    def pread(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of a shard.

        Raises:
            DataError: a remote shard cannot be fetched, or a file is shorter than its index says.
        """
        index = self.indexes[shard]
        try:
            if is_remote(index.place):
                content = self._read_cached(index, offset, size)
            else:
                content = os.pread(self._descriptor(shard), size, offset)
        except OSError as error:
            raise DataError(f"{shown(index.place)} cannot be read ({error})") from error
        if len(content) < size:
            raise DataError(
                f"{shown(index.place)} ends before byte {offset + size}: it was cut off or changed while in use; "
                "copy it again"
            )
        return content

    def _place(self, number: int) -> tuple[int, int]:
        """A sample's shard and its row there."""
        at = int(self.numbers[number])
        shard = int(np.searchsorted(self.starts, at, side="right")) - 1
        return shard, at - int(self.starts[shard])

    def _read(self, shard: int, member: str, row: int) -> bytes:
        place = self.indexes[shard].rows[row]
        return self.pread(shard, int(place[f"{member}_offset"]), int(place[f"{member}_size"]))

    def _descriptor(self, shard: int) -> int:
        place = (os.getpid(), shard)
        if place not in self._files:
            if len(self._files) >= OPEN_FILES:
                os.close(self._files.pop(next(iter(self._files))))
            self._files[place] = os.open(self.indexes[shard].place, os.O_RDONLY)
        return self._files[place]

    def _read_cached(self, index: ShardIndex, offset: int, size: int) -> bytes:
        """Opened anew each time: a descriptor that stays open would keep a removed shard's space."""
        assert self.cache is not None
        while True:
            try:
                path = self.cache.fetch(index.place, index.size, index.sha256)
            except DataError as error:
                stored = self.cache.index_path(index.place)
                raise DataError(f"{error} (if the shard was replaced on purpose, delete {stored})") from error
            try:
                with path.open("rb", buffering=0) as file:
                    return os.pread(file.fileno(), size, offset)
            except FileNotFoundError:
                continue  # another process made room between the two lines above

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}


class _Member(io.RawIOBase):
    """A stretch of a shard as a file."""

    def __init__(self, shards: ShardSet, shard: int, offset: int, size: int) -> None:
        self.shards, self.shard, self.offset, self.size = shards, shard, offset, size
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self.size - self.position))
        buffer[:count] = self.shards.pread(self.shard, self.offset + self.position, count)
        self.position += count
        return count


def open_indexes(places: Sequence[str], cache: ShardCache | None) -> list[ShardIndex]:
    """The indexes of all shards, in order; those that have none are made, several at a time.

    Raises:
        DataError: a shard cannot be read at all.
    """

    def open_one(place: str) -> ShardIndex:
        if not is_remote(place):
            return load_index(Path(place))
        if cache is None:
            raise DataError(f"{shown(place)} is remote, and there is no cache to keep it in")
        return _remote_index(place, cache)

    with ThreadPoolExecutor(4) as pool:
        tasks = pool.map(open_one, places)
        return list(
            track(
                tasks,
                "opening shards",
                len(places),
                disable=len(places) < 20 or not Console().is_terminal,
                transient=True,
            )
        )


def _remote_index(url: str, cache: ShardCache) -> ShardIndex:
    """From the cache, else from beside the shard, else made from the shard itself."""
    path = cache.index_path(url)
    if (stored := read_index(path, url)) is not None:
        return stored
    content = fetch_small(f"{url.removesuffix('.tar')}.index.json") if "://" in url else None
    index = from_json(content, url) if content is not None else None
    if index is None:
        index = build_index(cache.fetch(url), url)
        cache.identify(url, index.size, index.sha256)
    write_index(index, path)
    return index


def find_shards(folder: str | Path) -> list[str]:
    """The tars of a folder by name; a single `.tar` is taken as it is; URLs are listed by `list_remote`.

    Raises:
        DataError: nothing is there; the message lists the folders beside it.
    """
    if is_remote(str(folder)):
        return list_remote(str(folder))
    folder = Path(folder)
    if folder.is_file() and folder.suffix == ".tar":
        return [str(folder)]
    if not folder.is_dir():
        beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        there = f"beside it there are: {', '.join(beside)}" if beside else f"{folder.parent} is not there either"
        raise DataError(f"shard folder {folder.absolute()} does not exist; {there}")
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise DataError(f"shard folder {folder.absolute()} holds no .tar; write shards into it or name another folder")
    return [str(tar) for tar in tars]


def _missing(indexes: Sequence[ShardIndex], folder: str) -> list[BadSample]:
    """What LAION's `sizes.json` counts and the tars do not hold."""
    path = Path(folder) / "sizes.json"
    if is_remote(folder) or not path.is_file():
        return []
    try:
        sizes = {str(name): int(count) for name, count in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        warnings.warn(f"{path} cannot be read ({error}); the shards are taken as they are", stacklevel=3)
        return []
    held = {index.place: len(index) for index in indexes}
    tars = {str(Path(folder) / name): count for name, count in sizes.items()}
    return [
        BadSample(tar, f"sizes.json counts {count} samples, {held.get(tar, 0)} can be read")
        for tar, count in tars.items()
        if held.get(tar, 0) < count
    ]

"""Index -> bytes: any sample of any number of shard folders by its number."""

import copy
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from atr.errors import DataError
from atr.shards.cache import ShardCache
from atr.shards.find import find_shards, missing, open_indexes
from atr.shards.index import (
    AUDIO_SUFFIXES,
    ShardIndex,
    names,
)
from atr.shards.quarantine import FILE as QUARANTINE
from atr.shards.quarantine import left_out
from atr.shards.remote import is_remote
from atr.shards.scan import BLOCK, Window
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
        quarantined: what `quarantine.jsonl` beside the shards leaves out, by full name; only files on this machine
            count, so remote shards have none.
        left_out: the same as places among all samples of all shards, int64, ascending.

    Raises:
        DataError: a folder is missing or holds no shard, a quarantine is damaged or leaves nothing.
    """

    def __init__(self, folders: Folders, cache: ShardCache | None = None) -> None:
        named = folders if isinstance(folders, Mapping) else {"": folders}
        if not named or not all(named.values()):
            raise DataError("no shard folder given; name at least one, e.g. data.train=[data/esc10/fold1]")
        self.cache = cache
        places = [(corpus, place) for corpus, name in enumerate(named) for f in named[name] for place in find_shards(f)]
        self.corpora = list(named)
        distinct = list(dict.fromkeys(place for _, place in places))
        opened = dict(zip(distinct, open_indexes(distinct, cache), strict=True))
        self.indexes = [opened[place] for _, place in places]
        self.corpus_of_shard = np.array([corpus for corpus, _ in places])
        self.starts = np.cumsum([0, *(len(index) for index in self.indexes)])
        reasons = left_out(opened.values())
        self.left_out = np.array(
            [
                start + row
                for index, start in zip(self.indexes, self.starts[:-1].tolist(), strict=True)
                for row in reasons.get(index.place, ())
            ],
            np.int64,
        )
        self.numbers = np.setdiff1d(np.arange(self.starts[-1]), self.left_out, assume_unique=True)  # the samples kept
        self.quarantined = [
            BadSample(f"{place}:{opened[place].key(row)}", reason)
            for place, rows in reasons.items()
            for row, reason in rows.items()
        ]
        if len(self.left_out) and not len(self.numbers):
            raise DataError(
                f"all {len(self.left_out)} clips are left out by {QUARANTINE}; the first is "
                f"{self.quarantined[0].key}: {self.quarantined[0].reason}"
            )
        self.lost = [
            replace(one, key=f"{shown(index.place)}:{one.key}") for index in opened.values() for one in index.lost
        ]
        counts = {place: (len(index), sum(one.clips for one in index.lost)) for place, index in opened.items()}
        for folder in dict.fromkeys(str(folder) for name in named for folder in named[name]):
            self.lost += missing(counts, folder)
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
        self._check(shard, row, "audio")
        return io.BufferedReader(Window(lambda at, count: self.pread(shard, at, count), offset, size), BUFFER)

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

    def length(self, number: int) -> tuple[int, int]:
        """Frames and sample rate (Hz) of a sample's sound; 0 where its header does not tell."""
        shard, row = self._place(number)
        place = self.indexes[shard].rows[row]
        return max(0, int(place["frames"])), max(0, int(place["sample_rate"]))

    def another(self, number: int, rng: np.random.Generator) -> int:
        """The number of a random sample of the same corpus."""
        shards = np.flatnonzero(self.corpus_of_shard == self.corpus_of_shard[self._place(number)[0]])
        edges = np.searchsorted(self.numbers, (self.starts[shards[0]], self.starts[shards[-1] + 1]))
        return int(rng.integers(*edges))

    def select(self, numbers: Sequence[int]) -> None:
        """Keeps only these samples; in ascending order."""
        self.numbers = self.numbers[np.asarray(numbers, dtype=np.int64)]

    def whole_shard(self, shard: int) -> "ShardSet":
        """All samples of one of the shards, those that are left out, too."""
        whole = copy.copy(self)
        whole.numbers = np.arange(self.starts[shard], self.starts[shard + 1])
        whole._files = self._files  # or each would hold its own open
        return whole

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
        """A whole member, in one read with the header before it, which must be its own."""
        place = self.indexes[shard].rows[row]
        offset, size = int(place[f"{member}_offset"]), int(place[f"{member}_size"])
        if size == 0:
            return b""
        content = self.pread(shard, offset - BLOCK, BLOCK + size)
        self._check(shard, row, member, content[:BLOCK])
        return content[BLOCK:]

    def _check(self, shard: int, row: int, member: str, header: bytes | None = None) -> None:
        """Is a member still where the index says?

        Raises:
            DataError: the tar was written again, and another member stands there.
        """
        index = self.indexes[shard]
        place = index.rows[row]
        if header is None:
            header = self.pread(shard, int(place[f"{member}_offset"]) - BLOCK, BLOCK)
        suffix = "json" if member == "json" else AUDIO_SUFFIXES[place["suffix"]]
        if not names(header, f"{index.key(row)}.{suffix}", int(place[f"{member}_size"])):
            raise DataError(
                f"its .{suffix} is not where the index of {shown(index.place)} says: the tar was changed after it was "
                "indexed; delete the index beside it, so that it is made again"
            )

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
                if "instead of" not in str(error):
                    raise
                raise DataError(
                    f"{error}; the shard is another one than its index tells of: if it was replaced on purpose, make "
                    f"the index beside it again (or remove it), and delete {self.cache.index_path(index.place)}"
                ) from None
            try:
                with path.open("rb", buffering=0) as file:
                    return os.pread(file.fileno(), size, offset)
            except FileNotFoundError:
                continue  # another process made room between the two lines above

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

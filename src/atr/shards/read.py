"""Index -> bytes: any sample of any number of shard folders by its number."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atr.errors import DataError
from atr.shards.index import Entry, ShardIndex, load_index

OPEN_FILES = 128  # per set and process; systems often allow 1024 in all


class ShardSet:
    """The samples of several shard folders as one numbered sequence.

    Opening reads the indexes only. Files are opened on first use in each process; reads use `pread`, so a
    fork shares nothing that moves.

    Raises:
        DataError: a folder is missing or holds no shard.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
        if not folders:
            raise DataError("no shard folder given; name at least one, e.g. data.train=[data/esc10/fold1]")
        self.indexes: list[ShardIndex] = [load_index(tar) for f in folders for tar in find_shards(Path(f))]
        self.samples: list[tuple[int, Entry]] = [(s, e) for s, x in enumerate(self.indexes) for e in x.entries]
        self._files: dict[tuple[int, int], int] = {}  # (process, shard) -> file descriptor

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, number: int) -> str:
        """How messages call a sample: the tar's path and the sample's key."""
        shard, entry = self.samples[number]
        return f"{self.indexes[shard].tar}:{entry.key}"

    def audio(self, number: int) -> bytes:
        """The sound file of a sample, undecoded; empty when the tar holds none."""
        shard, entry = self.samples[number]
        return self._read(shard, entry.audio_offset, entry.audio_size)

    def metadata(self, number: int) -> dict[str, Any]:
        """The json of a sample; empty when the tar holds none.

        Raises:
            DataError: it is not a json object.
        """
        shard, entry = self.samples[number]
        if entry.json_size == 0:
            return {}
        try:
            meta = json.loads(self._read(shard, entry.json_offset, entry.json_size))
        except ValueError as error:
            raise DataError(f"its json cannot be read ({error})") from error
        if not isinstance(meta, dict):
            raise DataError(f"its json is a {type(meta).__name__}, not an object")
        return meta

    def select(self, numbers: Sequence[int]) -> None:
        """Keeps only these samples, in this order."""
        self.samples = [self.samples[number] for number in numbers]

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        place = (os.getpid(), shard)
        if place not in self._files:
            if len(self._files) >= OPEN_FILES:
                os.close(self._files.pop(next(iter(self._files))))
            self._files[place] = os.open(self.indexes[shard].tar, os.O_RDONLY)
        return os.pread(self._files[place], size, offset)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}


def find_shards(folder: Path) -> list[Path]:
    """The tars of a folder by name; a single `.tar` is taken as it is.

    Raises:
        DataError: nothing is there; the message lists the folders beside it.
    """
    if folder.is_file() and folder.suffix == ".tar":
        return [folder]
    if not folder.is_dir():
        beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        there = f"beside it there are: {', '.join(beside)}" if beside else f"{folder.parent} is not there either"
        raise DataError(f"shard folder {folder.absolute()} does not exist; {there}")
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise DataError(f"shard folder {folder.absolute()} holds no .tar; write shards into it or name another folder")
    return tars

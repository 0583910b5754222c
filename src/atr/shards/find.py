"""Folders and URLs -> shards -> their indexes."""

import difflib
import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from atr.errors import DataError
from atr.shards.cache import ShardCache
from atr.shards.index import ROW, ShardIndex, build_index, from_json, load_index, read_index, write_index
from atr.shards.remote import fetch_small, is_remote, list_remote
from atr.shards.transfer import shown, split_query
from atr.types import BadSample

SHOWN = 10  # names of folders in a message


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
        there = (
            f"beside it there are: {_some(beside, folder.name)}"
            if beside
            else f"{folder.parent} is not there either; `atr prepare` makes it"
        )
        raise DataError(f"shard folder {folder.absolute()} does not exist; {there}")
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        below = sorted({tar.parent.name for tar in folder.glob("*/*.tar")})
        hint = f"; its folders do, name one of them: {_some(below, folder.name)}" if below else ""
        raise DataError(f"shard folder {folder.absolute()} holds no .tar{hint or '; `atr prepare` makes shards'}")
    return [str(tar) for tar in tars]


def _some(names: list[str], wanted: str) -> str:
    """The names, those that are like the wanted one first, and no more than a line holds."""
    like = difflib.get_close_matches(wanted, names, SHOWN)
    ordered = [*like, *(name for name in names if name not in like)]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(ordered[:SHOWN]) + more


def open_indexes(places: Sequence[str], cache: ShardCache | None) -> list[ShardIndex]:
    """The indexes of all shards, in order; those that have none are made, several at a time.

    A shard that cannot be read at all gives an empty index that says so in `lost`.

    Raises:
        DataError: no shard can be read.
    """

    def open_one(place: str) -> ShardIndex | DataError:
        try:
            if not is_remote(place):
                return load_index(Path(place))
            if cache is None:
                raise DataError(f"{shown(place)} is remote, and there is no cache to keep it in")
            return _remote_index(place, cache)
        except OSError as error:
            return DataError(f"{shown(place)} cannot be read ({error})")
        except DataError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        tasks = pool.map(open_one, places)
        bar = len(places) >= 20 and Console().is_terminal
        opened = list(track(tasks, "opening shards", len(places), disable=not bar, transient=True))
    held = [len(index) for index in opened if isinstance(index, ShardIndex)]
    if not held:
        assert isinstance(opened[0], DataError)
        raise opened[0]
    clips = max(1, round(sum(held) / len(held)))  # as many as in the others
    return [
        index if isinstance(index, ShardIndex) else _nothing(place, BadSample("(all)", str(index), clips))
        for place, index in zip(places, opened, strict=True)
    ]


def _nothing(place: str, why: BadSample) -> ShardIndex:
    return ShardIndex(place, 0, "", np.empty(0, np.bytes_), np.empty(0, ROW), [why])


def _remote_index(url: str, cache: ShardCache) -> ShardIndex:
    """From the cache, else from beside the shard, else made from the shard itself."""
    path = cache.index_path(url)
    if (stored := read_index(path, url)) is not None:
        return stored
    address, query = split_query(url)
    content = fetch_small(f"{address.removesuffix('.tar')}.index.json{query}") if "://" in url else None
    index = from_json(content, url) if content is not None else None
    if index is None:
        index = build_index(cache.fetch(url), url)
        cache.identify(url, index.size, index.sha256)
    try:
        write_index(index, path)
    except OSError as error:
        warnings.warn(f"the index of {shown(url)} cannot be kept in {path.parent}: {error}", stacklevel=2)
    return index


def missing(counts: Mapping[str, tuple[int, int]], folder: str) -> list[BadSample]:
    """What LAION's `sizes.json` counts beyond what the tars hold or are known to have lost: `counts` by tar."""
    path = Path(folder) / "sizes.json"
    if is_remote(folder) or not path.is_file():
        return []
    try:
        sizes = {str(Path(folder) / name): int(count) for name, count in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        warnings.warn(f"{path} cannot be read ({error}); the shards are taken as they are", stacklevel=2)
        return []
    missing = []
    for tar, count in sizes.items():
        held, known = counts.get(tar, (0, 0))
        if held + known < count:
            reason = f"sizes.json counts {count} samples, {held} can be read"
            missing.append(BadSample(tar, reason, count - held - known))
    return missing

"""Places of remote shards -> URLs of single tars, and the small files beside them.

A place is `https://…`, `s3://…` or any other URL of fsspec, or `pipe:COMMAND`, whose output is the shard.
"""

import json
import re
import tempfile
from pathlib import Path

from braceexpand import braceexpand

from atr.errors import DataError
from atr.shards.transfer import (
    PIPE,
    Meter,
    command_words,
    download,
    file_system,
    http_status,
    retried,
    shown,
    split_query,
)

SMALL_FILE = 256 << 20  # bytes


class _TooLarge(Exception):
    """More bytes than a small file has."""


def is_remote(place: str) -> bool:
    """Is it a URL or a `pipe:` command, and no local path?"""
    return "://" in place or place.startswith(PIPE)


def list_remote(place: str) -> list[str]:
    """The shards of a place.

    Args:
        place: a URL that ends in .tar, a folder's URL, or a `pipe:` command, each with or without a brace pattern
            (`https://host/{00000..00099}.tar`). A folder's tars are those its `sizes.json` names (`{"0.tar": 512}`,
            LAION's layout), or else those that fsspec lists; a query at the end of its URL is kept.

    Raises:
        DataError: the braces do not match, the folder cannot be listed or holds no tar, or `sizes.json` is not valid.
    """
    try:
        # Backslashes stay as they are: they belong to the command of a pipe.
        places = list(braceexpand(place, escape=False))
    except ValueError:
        raise DataError(f"{shown(place)}: the braces do not match; write e.g. {{00000..00099}}.tar") from None
    shards = []
    for one in places:
        if one.startswith(PIPE):
            command_words(one)  # refuses what cannot be run
        is_shard = one.startswith(PIPE) or split_query(one)[0].endswith(".tar")
        shards += [one] if is_shard else _folder(one)
    return shards


def fetch_small(url: str) -> bytes | None:
    """The content of a small file beside shards, such as an index; None where there is none.

    More than 256 MB are no such file: a server that does not know it may send something else.

    An answer "forbidden" counts as none: S3 gives it for missing keys where listing is not allowed. A `pipe:` command
    has no files beside it.

    Raises:
        DataError: it cannot be fetched.
    """

    def bound(size: int) -> None:
        if size > SMALL_FILE:
            raise _TooLarge

    def read() -> bytes | None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "file")
            try:
                download(url, file, Meter(bound))
            except Exception as error:
                gone = isinstance(error, FileNotFoundError | PermissionError | _TooLarge)
                if gone or http_status(error) in (403, 404, 410):
                    return None
                raise
            return file.read_bytes() if file.stat().st_size <= SMALL_FILE else None

    return None if url.startswith(PIPE) else retried(url, read)


def _folder(url: str) -> list[str]:
    """The tars of a folder."""
    base, query = split_query(url)
    base = base.rstrip("/") + "/"
    content = fetch_small(f"{base}sizes.json{query}")
    if content is not None:
        names = _names(f"{shown(base)}sizes.json", content)
    else:
        listed = retried(base, lambda: _list(base))
        names = [name for name in listed if _is_plain(name)]
    if not names:
        raise DataError(f"{shown(base)} holds no .tar; name a tar, a brace pattern or a folder with a sizes.json")
    return [f"{base}{name}{query}" for name in sorted(names)]


def _list(base: str) -> list[str]:
    """The names in a folder."""
    system, path = file_system(base)
    prefix = path.rstrip("/") + "/"
    return [entry.removeprefix(prefix) for entry in system.ls(path, detail=False) if entry.startswith(prefix)]


def _names(place: str, content: bytes) -> list[str]:
    """The names in a `sizes.json`."""
    try:
        sizes = json.loads(content)
    except ValueError as error:
        raise DataError(f"{place}: is not json ({error}); write it again") from None
    if not isinstance(sizes, dict):
        raise DataError(f'{place}: holds a {type(sizes).__name__}; allowed is {{"0.tar": 512, …}}, clips of each tar')
    if bad := [name for name in sizes if not _is_plain(name)]:
        raise DataError(f"{place}: names {bad[0]!r}; allowed are plain names that end in .tar, of files beside it")
    return list(sizes)


def _is_plain(name: str) -> bool:
    """Is it the name of a tar, without a way out of its folder?"""
    return re.fullmatch(r"[^/\\?#\x00-\x1f]+\.tar", name) is not None and ".." not in name and "%2f" not in name.lower()

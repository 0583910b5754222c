"""Fetches the plain files that a corpus's publisher offers: resumed, checked, unpacked once."""

import errno
import http.client
import json
import os
import re
import urllib.request
import uuid
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from atr.datasets.corpus import Card, Download
from atr.datasets.unpack import unpack
from atr.errors import AtrError, DataError, UsageError
from atr.shards.transfer import BLOCK, SILENCE_SECONDS, is_http, retried, shown

RECORD = "downloads.json"  # in the root: what was fetched, with its checksum, and what was unpacked
Entry = dict[str, Any]


def download(card: Card, root: Path, progress: bool = True) -> list[Path]:
    """Fetches the files of a card that are not there yet, checks them, and unpacks archives beside themselves.

    A transfer that is broken off leaves `NAME.part` and goes on from there the next time. Where the publisher gives no
    checksum, the SHA-256 is written to `downloads.json` and compared from then on. An archive that was unpacked may be
    deleted; it is not fetched again.

    Args:
        card: of the corpus.
        root: where the files go; made if it is not there.
        progress: shows bars on a terminal (stderr).

    Returns:
        The files that are there, without archives that were deleted after they were unpacked.

    Raises:
        UsageError: the publisher offers no plain files, or another process downloads into `root`.
        DataError: a file cannot be fetched, is not the one announced, or cannot be unpacked.
    """
    if not card.downloads:
        raise UsageError(
            f"{card.name}: there are no plain files to fetch; {card.homepage} tells how to get it. No downloader for "
            "videos is built in: the sites' terms forbid it, and videos vanish. Ask the authors for the sounds, or "
            "name files that you have by video id (ID.wav, ID_START.wav) and give their folder with --audio-dir"
        )
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, disable=not (progress and console.is_terminal),
    )  # fmt: skip
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{RECORD}.lock", timeout=0), bar:
            record = _Record(root / RECORD)
            for one in card.downloads:
                _fetch(one, root / one.path, record, bar)
            for one in card.downloads:
                if one.unpack and not record[one.path].get("unpacked"):
                    task = bar.add_task(f"unpack {one.path}", total=None)
                    unpack(root / one.path, (root / one.path).parent)
                    bar.remove_task(task)
                    record.update(one.path, unpacked=True)
    except Timeout:
        raise UsageError(f"{root}: another process downloads into this folder; wait for it") from None
    except PermissionError as error:
        raise UsageError(f"{error.filename or root}: cannot be written; choose another folder") from error
    return [root / one.path for one in card.downloads if (root / one.path).is_file()]


class _Record:
    """What `downloads.json` tells of each file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        if path.is_file():
            try:
                self.entries = json.loads(path.read_bytes())
                right = isinstance(self.entries, dict) and all(isinstance(one, dict) for one in self.entries.values())
            except ValueError:
                right = False
            if not right:
                raise DataError(f"{path}: is damaged; remove it, then the files are checked anew")

    def __getitem__(self, name: str) -> Entry:
        return self.entries.get(name, {})

    def replace(self, name: str, **entry: Any) -> None:
        """Writes a new entry."""
        self.entries[name] = entry
        temporary = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        temporary.write_text(json.dumps(self.entries, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)

    def update(self, name: str, **entry: Any) -> None:
        """Adds to an entry."""
        self.replace(name, **self[name] | entry)


def _fetch(one: Download, file: Path, record: _Record, bar: Progress) -> None:
    entry = record[one.path]
    if file.is_file():
        now = file.stat()
        if [now.st_size, now.st_mtime_ns] != [entry.get("size"), entry.get("mtime_ns")] or not _agrees(one, entry):
            _check(one, file, file, record, "remove it, then it is fetched again")
        return
    if entry.get("unpacked"):
        return
    if not is_http(one.url):
        raise DataError(f"{one.url}: only http:// and https:// are fetched")
    part = file.with_name(f"{file.name}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    task = bar.add_task(one.path, total=one.size)
    retried(one.url, lambda: _persist(one, part, record, lambda **now: bar.update(task, **now)))
    try:
        _check(one, part, file, record, "it was removed; run again, and tell the publisher if it happens again")
    except DataError:
        part.unlink()
        raise


def _agrees(one: Download, entry: Entry) -> bool:
    algorithm, _, digest = one.checksum.partition(":")
    return not one.checksum or entry.get(algorithm) == digest.lower()


def _check(one: Download, held: Path, file: Path, record: _Record, step: str) -> None:
    """Gives the file its name and records it, if it is the one that was announced, or that was there before."""
    entry, size = record[one.path], held.stat().st_size
    if one.size is not None and size != one.size:
        raise DataError(f"{file}: has {size} bytes instead of {one.size}; {step}")
    before = f"sha256:{entry['sha256']}" if "sha256" in entry else ""
    algorithm, _, wanted = (one.checksum or before or "sha256:").partition(":")
    with held.open("rb") as stream:
        found = file_digest(stream, algorithm).hexdigest()
    if wanted and found != wanted.lower():
        by = "as published" if one.checksum else f"as {record.path} has it from the first time"
        raise DataError(f"{file}: its {algorithm.upper()} is {found} instead of {wanted.lower()}, {by}; {step}")
    held.replace(file)
    now = file.stat()
    same = {"unpacked": True} if entry.get("unpacked") and entry.get(algorithm) == found else {}
    record.replace(one.path, url=one.url, size=size, mtime_ns=now.st_mtime_ns, **{algorithm: found}, **same)


def _persist(one: Download, part: Path, record: _Record, show: Callable[..., None]) -> None:
    """Transfers the file, and goes on at once after an interruption as long as each try brings more of it."""
    while True:
        before = _size(part)
        try:
            _transfer(one, part, record, show)
            return
        except (HTTPError, AtrError):
            raise
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"{part}: the disk, or its quota, is full; {_size(part)} bytes are kept; free space, then run again"
                ) from None
            if _size(part) - before < BLOCK:
                raise


def _transfer(one: Download, part: Path, record: _Record, show: Callable[..., None]) -> None:
    """One request: the rest of what is there, or the whole file where the server has another one or gives no ranges."""
    have, entry = _size(part), record[one.path]
    validator = entry.get("validator", "") if entry.get("url") == one.url else ""
    headers = {"User-Agent": "atr", "Accept-Encoding": "identity"}
    if have and (validator or one.checksum):  # else nothing would tell if the file has changed in between
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    try:
        response = _opener().open(urllib.request.Request(one.url, headers=headers), timeout=SILENCE_SECONDS)
    except HTTPError as error:
        if error.code != 416 or "Range" not in headers:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.unlink()
        raise ConnectionError("the server has another file than the one that was begun") from None
    with response:
        start, total = _stretch(response)
        if start not in (0, have):
            raise ConnectionError(f"bytes from {start} on came instead of those from {have} on")
        if response.headers.get_content_type() == "text/html" and not part.stem.endswith((".html", ".htm")):
            raise DataError(
                f"{shown(one.url)}: is a web page, not the file; open it in a browser and save the file by hand"
            )
        if one.size is not None and total not in (None, one.size):
            raise DataError(f"{shown(one.url)}: has {total} bytes instead of {one.size}; the publisher has changed it")
        known = {"sha256": entry["sha256"]} if "sha256" in entry else {}
        record.replace(one.path, url=one.url, validator=_validator(response), **known)
        with part.open("ab" if start else "wb") as out:
            show(completed=start, total=total)
            while block := response.read(BLOCK):
                out.write(block)
                show(advance=len(block))
    if total is not None and _size(part) != total:
        raise ConnectionError(f"{_size(part)} bytes came instead of {total}")


def _stretch(response: Any) -> tuple[int, int | None]:
    """Where the answer's bytes begin in the file, and how long the whole file is."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match:
            raise ConnectionError("the server gives a part of the file and does not say which")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _validator(response: Any) -> str:
    """What a later request may ask with whether the file is still the same. Weak ETags do not serve for that."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _opener() -> urllib.request.OpenerDirector:
    """http and https only, also after a redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.UnknownHandler, urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler, urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

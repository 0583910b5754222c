"""A local folder of whole remote shards, bounded in size, shared by threads and processes."""

import math
import os
import queue
import re
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from atr.errors import DataError, UsageError
from atr.shards.transfer import PIPE, Meter, check, download, file_system, is_http, retried, shown, split_query

Wanted = tuple[str, int | None, str | None]  # URL, bytes, SHA-256; None where it is not known

CLAIM_STEP = 64 << 20  # bytes by which the room of a shard of unknown size grows
FAILURE_SECONDS = 60.0  # a shard that could not be fetched is not asked for again for so long
ROOM_SECONDS = 600.0  # how long a download waits until others free room in the cache
ROOM_POLL = 0.25  # s between two looks at it
PREFETCH_THREADS = 4


class _NoRoom(Exception):
    """Other downloads hold the room that `size` bytes would need."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class ShardCache:
    """Whole shards in a local folder, of `limit` bytes at most; the least recently used ones make room.

    Threads and processes may share the folder: a shard is downloaded by one of them while the others wait. Instances
    travel to the workers of a loader by fork or by pickling.

    A download counts against the limit from its first block: an empty file `….room` of the shard's length (sparse,
    it takes no space) stands for it. A file without a final name (`….part`) belongs to whoever holds the shard's lock.

    Args:
        folder: made if it is not there.
        limit: bytes.

    Raises:
        UsageError: the limit is not positive, or the folder cannot be made.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        if limit <= 0:
            raise UsageError(f"data.cache_gb gives a cache of {limit} bytes; it must be above 0")
        try:
            (folder / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the cache folder {folder} cannot be made ({error}); name one you may write to") from None
        self.folder, self.limit = folder, limit
        self._failed: dict[str, tuple[float, str]] = {}  # file name -> when, message
        self._queue: tuple[int, queue.SimpleQueue[Wanted]] | None = None  # the process whose threads read it
        self._remove_leftovers()

    def fetch(self, url: str, size: int | None = None, sha256: str | None = None) -> Path:
        """Returns the local path of a shard; downloads it when it is not there.

        The file may be removed by another process as soon as this returns, so open it at once and fetch again when
        it has vanished. An open file stays readable.

        Args:
            url: of one tar, or a `pipe:` command.
            size: bytes, if known; another `size` or `sha256` is another file, so that a changed shard is noticed.
            sha256: hexadecimal, if known.

        Raises:
            DataError: it cannot be fetched. For 60 s the same error comes again without another attempt.
            UsageError: it is larger than the cache.
        """
        path = self.folder / _file_name(url, size, sha256)
        if self._use(path):
            return path
        self._refuse_if_failed(path.name)
        with self._lock(path.name):
            if self._use(path):  # fetched by another one meanwhile
                return path
            self._refuse_if_failed(path.name)
            try:
                retried(url, lambda: self._attempt(url, path, size, sha256))
            except DataError as error:
                self._failed[path.name] = (time.monotonic(), str(error))
                raise
        return path

    def identify(self, url: str, size: int, sha256: str) -> None:
        """Files a shard that was fetched by its URL alone under what it turned out to be."""
        with suppress(FileNotFoundError):  # removed meanwhile: it will be fetched again
            (self.folder / _file_name(url, None, None)).replace(self.folder / _file_name(url, size, sha256))

    def index_path(self, url: str) -> Path:
        """Where the index of a shard is kept; it stays when the shard has to make room."""
        return self.folder / _file_name(url, None, None).replace(".tar", ".index.json")

    def prefetch(self, shards: Sequence[Wanted]) -> None:
        """Fetches shards (URL, bytes, SHA-256) in the background, in this order, with four daemon threads.

        Errors are left to whoever needs the shard. Ask for no more than the cache holds: what is fetched last
        pushes out what was fetched first.
        """
        for url in {url.partition("://")[0]: url for url, _, _ in shards if not url.startswith(PIPE)}.values():
            with suppress(Exception):
                file_system(url)  # imports what it needs; a fork while a thread imports would lock the child
        if self._queue is None or self._queue[0] != os.getpid():  # threads do not live on in a fork
            self._queue = (os.getpid(), queue.SimpleQueue())
            for number in range(PREFETCH_THREADS):
                name = f"prefetch-{number}"
                threading.Thread(target=self._fetch_queued, args=(self._queue[1],), name=name, daemon=True).start()
        for one in shards:
            self._queue[1].put(one)

    def _fetch_queued(self, shards: "queue.SimpleQueue[Wanted]") -> None:
        while True:
            with suppress(Exception):  # met again, and reported, by the reader
                self.fetch(*shards.get())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_queue": None}

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        return FileLock(self.folder / "locks" / f"{name}.lock", timeout=timeout)

    def _refuse_if_failed(self, name: str) -> None:
        when, message = self._failed.get(name, (-math.inf, ""))
        if time.monotonic() - when < FAILURE_SECONDS:
            raise DataError(message)

    @staticmethod
    def _use(path: Path) -> bool:
        """Is it there? Then it is now the most recently used one."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _attempt(self, url: str, path: Path, size: int | None, sha256: str | None) -> None:
        """One download into a file without a final name, tested, then moved into place. The shard's lock is held."""
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        room = part.with_suffix(".room")
        try:
            if size is not None:
                self._wait_for_room(url, room, size)
            while True:
                meter = Meter(lambda needed: self._claim(url, room, needed))
                try:
                    download(url, part, meter)
                    self._claim(url, room, part.stat().st_size)  # local files come without a meter
                    break
                except _NoRoom as full:
                    part.unlink(missing_ok=True)
                    self._wait_for_room(url, room, full.size)
            # Over http the announced length is that of the body on the wire; aiohttp compares it itself.
            announced = None if is_http(url) else meter.size
            check(part, announced if size is None else size, sha256)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
            room.unlink(missing_ok=True)

    def _claim(self, url: str, room: Path, size: int) -> None:
        """Makes room for `size` bytes by removing the least recently used shards.

        Raises:
            UsageError: the cache is too small for it.
            _NoRoom: it is held by other downloads.
        """
        if size > self.limit:
            raise UsageError(
                f"{shown(url)} holds {size / 1e9:.3g} GB or more, but data.cache_gb is {self.limit / 1e9:.3g}; raise it"
            )
        held = room.stat().st_size if room.exists() else 0
        if held >= size:
            return
        with self._lock("folder"):
            shards, others = {}, 0
            for file in self.folder.iterdir():
                with suppress(FileNotFoundError):  # a download of another process ended
                    if file.suffix == ".tar":
                        shards[file] = file.stat()
                    elif file.suffix == ".room" and file != room:
                        others += file.stat().st_size
            if others + size > self.limit:
                raise _NoRoom(size)
            if held:  # its length was not known: grow by large steps
                size = min(size + CLAIM_STEP, self.limit - others)
            used = sum(stat.st_size for stat in shards.values())
            for file in sorted(shards, key=lambda file: shards[file].st_mtime_ns):
                if used + others + size <= self.limit:
                    break
                file.unlink(missing_ok=True)
                used -= shards[file].st_size
            room.touch()
            os.truncate(room, size)

    def _wait_for_room(self, url: str, room: Path, size: int) -> None:
        """Claims room, if need be after other downloads have ended. Holds none while it waits: they may wait, too."""
        room.unlink(missing_ok=True)
        began = time.monotonic()
        while True:
            try:
                return self._claim(url, room, size)
            except _NoRoom:
                if time.monotonic() - began >= ROOM_SECONDS:
                    raise DataError(
                        f"{shown(url)}: for {ROOM_SECONDS:.0f} s other downloads took all of the cache; "
                        f"raise data.cache_gb, now {self.limit / 1e9:.3g}"
                    ) from None
            self._remove_leftovers()
            time.sleep(ROOM_POLL)

    def _remove_leftovers(self) -> None:
        """Removes what killed processes left: files of a download whose lock nobody holds."""
        for file in [*self.folder.glob("*.part"), *self.folder.glob("*.room")]:
            with suppress(Timeout), self._lock(file.name.rsplit(".", 2)[0], timeout=0):
                file.unlink(missing_ok=True)


def _file_name(url: str, size: int | None, sha256: str | None) -> str:
    """A name in the cache: a hash, and for people the end of the URL in harmless letters."""
    digest = sha256_of(f"{url}\n{size}\n{sha256}".encode()).hexdigest()[:32]
    # A command may hold a password anywhere.
    tail = "" if url.startswith(PIPE) else split_query(url)[0].removesuffix(".tar").rpartition("/")[2]
    return f"{digest}-{re.sub(r'[^0-9A-Za-z_-]', '_', tail)[-40:]}.tar"

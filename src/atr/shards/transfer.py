"""One file of a URL or a command -> a local file: blocks, retries, tests, and messages without secrets."""

import errno
import os
import random
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from hashlib import file_digest
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.callbacks import Callback

from atr.errors import AtrError, DataError

PIPE = "pipe:"
SHELL_SIGNS = ("|", ">", "<", ";", "&&", "$(", "`")
BLOCK = 1 << 20  # bytes read from a command at a time
CONNECT_SECONDS, SILENCE_SECONDS = 30, 60  # a server may take this long to accept, and between two packets
ATTEMPTS = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # s; each pause is twice the one before
TRY_AGAIN = (408, 425, 429)  # the answers 4xx that pass
_jitter = random.SystemRandom()  # the seeded generators stay untouched

T = TypeVar("T")


class _Broken(Exception):
    """A transfer failed in a way that may pass."""


def shown(text: str) -> str:
    """A URL, or a text that holds some, as messages show it: without `user:password@` and without `?query`.

    Of a command only its program and the words that name a file (`…://…`, `….tar`) are shown.

    >>> shown("https://me:secret@host/0.tar?signature=1")
    'https://host/0.tar'
    """
    if text.startswith(PIPE):
        words = text.removeprefix(PIPE).split()
        kept = [
            w if (at == 0 and "=" not in w) or "://" in w or w.endswith(".tar") else "…" for at, w in enumerate(words)
        ]
        text = PIPE + " ".join(kept)
    # The user's part ends at the last @ when it has a colon that starts no port: passwords may hold slashes.
    user = r"(?:[^/\s:]*:(?!\d+/)[^\s?#]*@|[^/\s]*@)?"
    return re.sub(rf"(\w[\w+.-]*://){user}([^\s?#]*)(?:[?#]\S*)?", r"\1\2", text)


def is_http(url: str) -> bool:
    """Is it `http://…` or `https://…`?"""
    return url.startswith(("http://", "https://"))


def split_query(url: str) -> tuple[str, str]:
    """A URL and its `?query`; only http has queries."""
    at = url.find("?") if is_http(url) else -1
    return (url, "") if at < 0 else (url[:at], url[at:])


class Meter(Callback):
    """Tells `claim` how many bytes a download will have, or has so far."""

    def __init__(self, claim: Callable[[int], None]) -> None:
        super().__init__()
        self.claim = claim
        self.stopped = False

    def relative_update(self, inc: int = 1) -> None:
        """`inc` bytes have come; the whole length is claimed with the first ones, where it is announced."""
        super().relative_update(inc)
        if self.stopped:
            raise InterruptedError("nobody waits for this download any more")
        self.claim(max(self.value, self.size or 0))


def download(url: str, file: Path, meter: Meter) -> None:
    """The whole of a URL, or the output of a command, block by block into a file."""
    if url.startswith(PIPE):
        _run(command_words(url), url, file, meter)
    else:
        system, path = file_system(url)
        try:
            system.get_file(path, str(file), callback=meter)
        except BaseException:
            meter.stopped = True  # Ctrl-C comes here while fsspec's own thread would go on
            raise


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it."""
    options: dict[str, Any] = {}
    if is_http(url):
        from aiohttp import ClientTimeout

        # aiohttp's own bound is 300 s for a whole transfer. Compressed on the way, a length would say nothing.
        patience = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        headers = {"Accept-Encoding": "identity"}
        options["client_kwargs"] = {"timeout": patience, "headers": headers, "trust_env": True}
    return fsspec.core.url_to_fs(url, **options)


def command_words(url: str) -> list[str]:
    """The program and the arguments of a `pipe:` command; there is no shell."""
    command = url.removeprefix(PIPE)
    if found := [sign for sign in SHELL_SIGNS if sign in command]:
        raise DataError(
            f"{shown(url)}: holds {found[0]!r}, but the command is run without a shell; "
            "put what needs one into a script and name the script"
        )
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise DataError(f"{shown(url)}: cannot be split into words ({error}); check its quotes") from None
    if words and "=" in words[0]:
        raise DataError(
            f"{shown(url)}: begins with an assignment, which needs a shell; put it into a script and name the script"
        )
    if not words:
        raise DataError(f"{url!r} names no command; write e.g. 'pipe:cat shards/{{00000..00009}}.tar'")
    return words


def _run(words: list[str], url: str, file: Path, meter: Meter) -> None:
    with tempfile.TemporaryFile() as errors, file.open("wb") as out:
        try:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        except OSError as error:
            raise DataError(f"{shown(url)}: {words[0]!r} cannot be started ({error.strerror}); install it") from None
        with process:
            assert process.stdout is not None
            try:
                while block := process.stdout.read(BLOCK):
                    out.write(block)
                    meter.relative_update(len(block))
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - 1000))
            said = errors.read().decode(errors="replace").strip().splitlines()[-3:]
            raise _Broken(f"it ended with status {process.returncode}: {' / '.join(said) or 'no message'}")


def check(part: Path, size: int | None, sha256: str | None) -> None:
    """Is it what was announced?"""
    came = part.stat().st_size
    if came == 0:
        raise _Broken("it is empty")
    if size is not None and came != size:
        raise _Broken(f"{came} bytes came instead of {size}")
    if sha256 is not None:
        with part.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        if digest != sha256.lower():
            raise _Broken(f"its SHA-256 is {digest} instead of {sha256}")


def retried(url: str, action: Callable[[], T]) -> T:
    """Repeats `action` while its errors may pass, with pauses that double.

    Raises:
        DataError: it failed for good. No error of a library is chained to it: those hold whole URLs.
    """
    before = ""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except AtrError:
            raise
        except Exception as error:
            reason, final = _reason(error)
        if final or (reason == before and "instead of" in reason):  # the same wrong file again
            break
        before = reason
        if attempt < ATTEMPTS:
            _pause(attempt)
    if url.startswith(PIPE):
        step = "run the command by hand to see why"
    else:
        step = "check the URL and your access to it" if final else "check the network and the server, then run again"
    raise DataError(f"{shown(url)} cannot be fetched: {reason} (attempt {attempt} of {ATTEMPTS}); {step}")


def _pause(attempt: int) -> None:
    """0.5 s, 1 s, 2 s, …, each shortened by up to a half, so that many readers do not return at once."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))
    time.sleep(longest * _jitter.uniform(0.5, 1.0))


def _reason(error: Exception) -> tuple[str, bool]:
    """What an error says, without secrets, and whether it is for good."""
    said = shown(str(error))
    if (status := http_status(error)) is not None:
        known = {one.value: one.phrase for one in HTTPStatus}  # the server's own words may repeat the query
        return f"the server answered {status} {known.get(status, '')}".strip(), status < 500 and status not in TRY_AGAIN
    if isinstance(error, FileNotFoundError):
        return f"not found ({said})", True
    if isinstance(error, PermissionError):
        return f"access is refused ({said})", True
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk of the cache folder, or its quota, is full; free space or lower data.cache_gb", True
    if isinstance(error, ImportError):
        return f"a package is missing ({said}); for s3:// it comes with `pip install atr[data]`", True
    text = said if isinstance(error, _Broken) else f"{type(error).__name__}: {said}"
    return text, isinstance(error, ValueError | NotImplementedError)


def http_status(error: Exception) -> int | None:
    """The status of an http answer that is an error."""
    status = getattr(error, "status", None)
    return status if isinstance(status, int) and status >= 400 else None

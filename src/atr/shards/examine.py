"""One shard read whole, every sample decoded to its end: what is wrong with each, and what others are compared with."""

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from atr.errors import DataError
from atr.pipeline.decode import open_sound
from atr.pipeline.text import captions_of, labels_of
from atr.shards.heard import Heard
from atr.shards.index import index_path, read_index
from atr.shards.read import BUFFER, WHOLE
from atr.shards.scan import AUDIO_SUFFIXES, Part, Scan, Window

NOBODY, LABELLED, CAPTIONED, UNKNOWN = range(4)  # what a sample's json says
# What others are compared with, per sample. The numbers are the first 64 bits of BLAKE2b; 0 where there is nothing.
FACTS = np.dtype(
    [
        ("sound", "u8"),  # of the decoded samples, with their rate and channels
        ("source", "u8"),
        ("file", "u8"),  # of source and file name, where `start` and `end` are known
        ("start", "f8"), ("end", "f8"),  # s in that file
        ("rate", "i4"),  # Hz
        ("says", "i1"),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a sample. `key` is in brackets where it is no sample's."""

    key: str
    kind: str
    detail: str


@dataclass
class Examined:
    """A shard: keys (bytes, UTF-8) and FACTS `(N,)`, the seconds decoded, and the faults that show without others."""

    keys: np.ndarray
    facts: np.ndarray
    seconds: float = 0.0
    lost: int = 0  # clips, an estimate where nobody knows
    faults: list[Fault] = field(default_factory=list)


def examine_shard(tar: Path, min_seconds: float, on_clip: Callable[[], object] = lambda: None) -> Examined:
    """Reads a tar from front to end, trusting its index in nothing, and decodes every sample. Writes nothing.

    Args:
        tar: local file.
        min_seconds: shorter sound is a fault, s.
        on_clip: is called after each sample.
    """
    try:
        with tar.open("rb") as file:
            scan = Scan(file, str(tar))
            keys = [key.encode(errors="backslashreplace") for key in scan.parts]
            done = Examined(np.array(keys, np.bytes_), np.zeros(len(keys), FACTS))
            done.lost = sum(one.clips for one in scan.lost)
            done.faults = [Fault(one.key, "unreadable", one.reason) for one in scan.lost]
            done.faults += _against_index(tar, file, keys, {one.key for one in scan.lost})
            for facts, key, members in zip(done.facts, keys, scan.parts.values(), strict=True):
                sample = _Sample(key.decode(), file, facts, done.faults)
                sample.describe(members.get("json"))
                suffix = next((s for s in AUDIO_SUFFIXES if s in members), "")
                done.seconds += sample.hear(members.get(suffix), min_seconds)
                on_clip()
            return done
    except (OSError, DataError) as error:
        reason = str(error) if isinstance(error, DataError) else f"cannot be read ({error.strerror or error})"
        return Examined(np.empty(0, np.bytes_), np.empty(0, FACTS), faults=[Fault("(tar)", "unreadable", reason)])


def _against_index(tar: Path, file: io.BufferedReader, keys: list[bytes], lost: set[str]) -> Iterator[Fault]:
    """Is the tar the one its index was made of?"""
    stored = read_index(index_path(tar), str(tar))
    if stored is None:
        return
    file.seek(0)
    digest, size = hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size
    if digest != stored.sha256:
        yield Fault(
            "(tar)", "unreadable",
            f"its SHA-256 is {digest[:12]}…, {stored.sha256[:12]}… in its index: it was damaged or changed; copy it "
            f"again, or delete {index_path(tar).name} if it was changed on purpose",
        )  # fmt: skip
    there = {*(key.decode() for key in keys), *lost}
    for one in stored.lost:
        if one.key not in there and not one.key.startswith("("):
            yield Fault(one.key, "unreadable", one.reason)
    if size < stored.size:
        for key in stored.keys.tolist():
            if key.decode() not in there:
                yield Fault(key.decode(), "unreadable", "stood in the tar before it was cut off")


class _Sample:
    """A sample under examination: fills in its facts, and adds its faults to the list."""

    def __init__(self, key: str, file: BinaryIO, facts: np.void, faults: list[Fault]) -> None:
        self.key, self.file, self.facts, self.faults = key, file, facts, faults
        self.start: Any = None
        self.end: Any = None

    def describe(self, place: Part | None) -> None:
        """Looks at the json."""
        if place is None or place[1] == 0:
            return
        content = self._pread(*place)
        try:
            content.decode()
        except UnicodeDecodeError as error:
            self._fault("not-utf8", f"its json is no UTF-8 ({error.reason} at byte {error.start})")
        self.facts["says"] = UNKNOWN
        try:
            meta = json.loads(content)
            if not isinstance(meta, dict):
                raise DataError(f"its json is a {type(meta).__name__}, not an object")
            captions, labels = captions_of(meta), labels_of(meta)
        except UnicodeDecodeError:
            return
        except DataError as error:
            self._fault("unreadable", str(error))
            return
        except (ValueError, RecursionError) as error:
            self._fault("unreadable", f"its json cannot be read ({error})")
            return
        self.facts["says"] = CAPTIONED if captions else LABELLED if labels else NOBODY
        for text in [*captions, *labels, str(meta.get("title", ""))]:
            if reason := spoilt(text):
                self._fault("not-utf8", f"{reason} in {_visible(text)}")
                break
        if source := str(meta.get("source") or ""):
            self.facts["source"] = _number(source)
            self.facts["file"] = _number(f"{source}\0{meta.get('file') or ''}")
            self.start, self.end = meta.get("start"), meta.get("end")

    def hear(self, place: Part | None, min_seconds: float) -> float:
        """Decodes the sound; returns its length, s."""
        if place is None or place[1] == 0:
            self._fault("unreadable", "has no sound file beside its json" if place is None else "its sound is empty")
            return 0.0
        window = Window(self._pread, *place)
        try:
            small = place[1] <= WHOLE
            with open_sound(self._pread(*place) if small else io.BufferedReader(window, BUFFER)) as sound:
                heard = Heard(sound)
        except DataError as error:
            self._fault("unreadable", str(window.failed or error))
            return 0.0
        if window.failed is not None:  # to the decoder it looked like the end of the file
            self._fault("unreadable", str(window.failed))
            return 0.0
        self.facts["rate"] = sound.rate
        seconds = heard.frames / sound.rate
        for kind, detail in heard.faults(sound, min_seconds):
            self._fault(kind, detail)
        if heard.frames:
            self.facts["sound"] = heard.number()
        self._place(seconds)
        return seconds

    def _place(self, seconds: float) -> None:
        """The stretch of its source, if the json tells it; 0 as `file` if not."""
        times = [self.start, self.start + seconds if self.end is None and _is_time(self.start) else self.end]
        if all(map(_is_time, times)) and times[0] < times[1]:
            self.facts["start"], self.facts["end"] = times
        else:
            self.facts["file"] = 0

    def _fault(self, kind: str, detail: str) -> None:
        self.faults.append(Fault(self.key, kind, detail))

    def _pread(self, offset: int, count: int) -> bytes:
        try:
            return os.pread(self.file.fileno(), count, offset)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror or error})") from error


def spoilt(text: str) -> str:
    """What proves that a text was decoded wrongly; empty where nothing does.

    UTF-8 read as Latin-1 or Windows-1252 is told by all its characters beyond ASCII being whole UTF-8 sequences.

    >>> spoilt("a cafÃ©"), spoilt("a café"), spoilt("NÃO")
    ("UTF-8 read as latin-1 (it was 'a café')", '', '')
    """
    if text.isascii():
        return ""
    if "\ufffd" in text:
        return "U+FFFD, which stands for bytes that could not be decoded,"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "half a surrogate pair"
    for wrong in ("latin-1", "cp1252"):
        try:
            return f"UTF-8 read as {wrong} (it was {_visible(text.encode(wrong).decode())})"
        except UnicodeError:
            continue
    return ""


def _visible(text: str) -> str:
    """The beginning of a text, as any terminal and file can take it."""
    return repr(text[:60]).encode(errors="backslashreplace").decode()


def _number(text: str) -> int:
    content = text.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) or 1


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

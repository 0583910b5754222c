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
from atr.pipeline.audio import ends_early
from atr.pipeline.decode import Sound, open_sound
from atr.pipeline.text import captions_of, labels_of
from atr.shards.index import index_path, read_index
from atr.shards.read import BUFFER, WHOLE
from atr.shards.scan import AUDIO_SUFFIXES, Part, Scan, Window

BLOCK = 1 << 20  # frames decoded at a time
SILENCE = 1e-3  # -60 dB of full scale
FULL_SCALE = 0.999  # lossy codecs move clipped samples a little, mostly beyond 1
CLIPPED_RUN = 3  # samples at full scale one after the other; a peak that just touches it has one or two
CLIPPED_SHARE = 1e-3
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


def _against_index(tar: Path, file: BinaryIO, keys: list[bytes], lost: set[str]) -> Iterator[Fault]:
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
        small = place[1] <= WHOLE
        try:
            with open_sound(io.BytesIO(self._pread(*place)) if small else io.BufferedReader(window, BUFFER)) as sound:
                heard = _Heard(sound)
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


class _Heard:
    """What the whole of a sound amounts to, gathered block by block.

    The hash is that of the samples at 16 bits, as a 16-bit file holds them exactly.
    """

    def __init__(self, sound: Sound) -> None:
        self.frames = self.samples = self.clipped = self.odd = 0
        self.low, self.high = np.float32(np.inf), np.float32(-np.inf)  # per channel, from the first block on
        self.hash = hashlib.blake2b(digest_size=8)
        while len(block := sound.read(self.frames, max(0, min(BLOCK, sound.frames - self.frames)))):
            if not self.frames:
                self.hash.update(f"{sound.rate} {block.shape[1]} ".encode())
            self._take(block)
            if len(block) < BLOCK:
                break

    def _take(self, block: np.ndarray) -> None:
        self.frames += len(block)
        self.samples += block.size
        low, high = block.min(axis=0), block.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            self.odd += int(np.count_nonzero(~np.isfinite(block)))
            block = np.nan_to_num(block, nan=0.0, posinf=1.0, neginf=-1.0)
            low, high = block.min(axis=0), block.max(axis=0)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        if max(-low.min(), high.max()) >= FULL_SCALE:
            self.clipped += in_runs(np.abs(block) >= FULL_SCALE)
        scaled = block * np.float32(32768)
        self.hash.update(np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled).astype("<i2").tobytes())

    def number(self) -> int:
        """The first 64 bits of the hash."""
        return int.from_bytes(self.hash.digest()) or 1

    def faults(self, sound: Sound, min_seconds: float) -> Iterator[tuple[str, str]]:
        """Kind and detail of what is wrong with it."""
        seconds, promised = self.frames / sound.rate, sound.frames / sound.rate
        early = next((note for note in sound.notes if note.startswith("ends after")), "")
        if sound.frames == 0:
            yield "unreadable", "holds no samples"
        elif sound.frames - self.frames > sound.slack:
            yield "unreadable", ends_early(seconds, promised)
        elif early:
            yield "unreadable", early
        if not self.frames:
            return
        if self.odd:
            yield "not-finite", f"{self.odd} of {self.samples} samples are NaN or infinite"
        elif float(np.max(self.high - self.low)) / 2 < SILENCE:
            peak = float(max(np.abs(self.low).max(), np.abs(self.high).max()))
            offset = ", all of it a constant offset" if peak >= SILENCE else ""
            yield "silent", f"peak {_decibels(peak)} dBFS{offset}"
        if self.clipped > CLIPPED_SHARE * self.samples:
            yield "clipped", f"{self.clipped / self.samples:.2%} of its samples stand at full scale"
        if seconds < min_seconds:
            yield "too-short", f"{seconds:.3f} s; {min_seconds:g} s is the least"


def in_runs(loud: np.ndarray) -> int:
    """How many of the true places `(n, channels)` stand in runs of CLIPPED_RUN and more within their channel.

    >>> in_runs(np.array([1, 1, 0, 1, 1, 1, 1], bool)[:, None])
    4
    """
    count = len(loud) - CLIPPED_RUN + 1
    if count <= 0:
        return 0
    begins = np.logical_and.reduce([loud[ahead : ahead + count] for ahead in range(CLIPPED_RUN)])
    within = np.zeros_like(loud)
    for ahead in range(CLIPPED_RUN):
        within[ahead : ahead + count] |= begins
    return int(np.count_nonzero(within))


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


def _decibels(peak: float) -> str:
    return f"{20 * math.log10(peak):.0f}".replace("-", "−") if peak else "−∞"

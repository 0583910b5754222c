"""The index beside a tar: where each sample's members lie and how long its sound is.

With it a sample is one `pread` away, so that order, resuming and validation need no second format. It is JSON by
columns, so that a million rows open in seconds.
"""

import hashlib
import io
import json
import os
import tarfile
import uuid
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from atr.errors import DataError
from atr.shards.scan import AUDIO_SUFFIXES, BLOCK, Part, Scan, Window
from atr.types import BadSample

FORMAT = 2
LIBSNDFILE = AUDIO_SUFFIXES[:5]
CLOCK = 5.0  # s; an index older than its tar by more is made again
# Offsets and sizes in bytes; `frames` samples per channel at `sample_rate` Hz; `suffix` is a place in AUDIO_SUFFIXES.
# A member that is not there has size 0; a sound whose header libsndfile cannot read has 0 frames at 0 Hz.
ROW = np.dtype(
    [
        ("audio_offset", "i8"), ("audio_size", "i8"), ("json_offset", "i8"), ("json_size", "i8"),
        ("sample_rate", "i4"), ("channels", "i2"), ("suffix", "i2"), ("frames", "i8"),
    ]
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """All samples of one tar, in the tar's order.

    Attributes:
        place: the tar's path or URL.
        size: of the tar, bytes.
        sha256: of the tar.
        keys: bytes `(N,)`, UTF-8.
        rows: `ROW` `(N,)`.
        lost: what stands in the tar and cannot be used, with the reason.
    """

    place: str
    size: int
    sha256: str
    keys: np.ndarray
    rows: np.ndarray
    lost: list[BadSample] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardIndex) and self.place == other.place and as_json(self) == as_json(other)

    def key(self, number: int) -> str:
        """The key of a sample."""
        return bytes(self.keys[number]).decode()


def index_path(tar: Path) -> Path:
    """`00000.tar` -> `00000.index.json`."""
    return tar.with_suffix(".index.json")


def load_index(tar: Path) -> ShardIndex:
    """Reads the index of a tar, or makes it when there is none or it belongs to another state of the tar.

    Raises:
        DataError: the tar cannot be read at all.
    """
    stored = read_index(index_path(tar), str(tar))
    if stored is not None and _belongs(stored, tar):
        return stored
    index = build_index(tar)
    if stored is not None and index.lost and stored.size > index.size:
        there = set(index.keys.tolist()) | {one.key.encode() for one in index.lost}
        gone = [key.decode() for key in stored.keys.tolist() if key not in there]
        index.lost.extend(BadSample(key, "stood in the tar before it was cut off") for key in gone)
    try:
        write_index(index, index_path(tar))
    except OSError as error:
        warnings.warn(f"{tar} was indexed, but the index cannot be stored beside it: {error}", stacklevel=2)
    return index


def read_index(path: Path, place: str) -> ShardIndex | None:
    """The stored index of the tar at `place`; None when there is none, or none of this format."""
    try:
        return from_json(path.read_bytes(), place)
    except OSError:
        return None


def from_json(content: bytes, place: str) -> ShardIndex | None:
    """The index in the content of an index file; None when it is not whole or of another format."""
    try:
        stored = json.loads(content)
        if stored["format"] != FORMAT:
            return None
        keys = np.array([str(key).encode() for key in stored["keys"]], dtype=np.bytes_)
        rows = np.zeros(len(keys), ROW)
        for name in ROW.fields or ():
            column = stored[name]
            if not isinstance(column, list) or len(column) != len(keys):
                return None
            rows[name] = column
        lost = [BadSample(str(key), str(reason), int(clips)) for key, reason, clips in stored["lost"]]
        index = ShardIndex(place, int(stored["size"]), str(stored["sha256"]), keys, rows, lost)
        return index if _is_sound(index) else None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _is_sound(index: ShardIndex) -> bool:
    """May the numbers of an index be used? It may come from elsewhere, or from a disk with faults."""
    rows = index.rows
    inside = all(
        (rows[f"{name}_offset"] >= 0).all()
        and (rows[f"{name}_size"] >= 0).all()
        and (rows[f"{name}_offset"] <= index.size - rows[f"{name}_size"]).all()
        for name in ("audio", "json")
    )
    known = ((rows["suffix"] >= 0) & (rows["suffix"] < len(AUDIO_SUFFIXES))).all()
    return bool(len(index) and inside and known and len(np.unique(index.keys)) == len(index))


def as_json(index: ShardIndex) -> str:
    """The content of an index file."""
    content: dict[str, Any] = {"format": FORMAT, "size": index.size, "sha256": index.sha256}
    content["lost"] = [[one.key, one.reason, one.clips] for one in index.lost]
    content["keys"] = [key.decode() for key in index.keys.tolist()]
    content |= {name: index.rows[name].tolist() for name in ROW.fields or ()}
    return json.dumps(content, separators=(",", ":"))


def write_index(index: ShardIndex, path: Path | None = None) -> None:
    """Writes the index, beside its tar when no path is given; whole or not at all."""
    path = path or index_path(Path(index.place))
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(as_json(index))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def build_index(tar: Path, place: str = "") -> ShardIndex:
    """Reads a tar once, from front to end. A damaged one gives what can be read, the rest in `lost`.

    Args:
        tar: local file.
        place: what the index calls it; its path when empty.

    Raises:
        DataError: the file is no tar, or holds no sample that can be read.
    """
    with tar.open("rb") as file:
        scan = Scan(file, str(tar))
        lost = scan.lost
        keys = [key.encode(errors="backslashreplace") for key in scan.parts]
        rows = [_row(file, members) for members in scan.parts.values()]
        if not rows:
            raise DataError(
                f"{tar}: no sample in it that can be read; expected KEY.json beside KEY.{'|'.join(AUDIO_SUFFIXES)}"
                + "".join(f"\n  {one.key}: {one.reason}" for one in lost[:5])
            )
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
    return ShardIndex(place or str(tar), size, digest, np.array(keys, dtype=np.bytes_), np.array(rows, ROW), lost)


def _row(file: io.BufferedReader, members: dict[str, Part]) -> tuple[int, ...]:
    """Reads the sound's header, and no more of it."""
    suffix = next((s for s in AUDIO_SUFFIXES if s in members), "")
    audio, described = members.get(suffix, (0, 0)), members.get("json", (0, 0))
    rate = channels = frames = 0
    if suffix in LIBSNDFILE:
        sound = io.BufferedReader(Window(lambda at, count: os.pread(file.fileno(), count, at), *audio))
        try:
            info = soundfile.info(sound)
            rate, channels, frames = info.samplerate, info.channels, info.frames
        except (soundfile.LibsndfileError, RuntimeError):
            pass  # reported as a bad sample when it is read
    place = AUDIO_SUFFIXES.index(suffix) if suffix else 0
    return (*audio, *described, rate, channels, place, frames)


def _belongs(index: ShardIndex, tar: Path) -> bool:
    """Is an index of the tar's size, no older than the tar, with its first and last sample?"""
    held = tar.stat()
    if index.size != held.st_size or index_path(tar).stat().st_mtime < held.st_mtime - CLOCK:
        return False
    with tar.open("rb") as file:
        return all(_stands_in(file, index, number) for number in (0, len(index) - 1))


def _stands_in(file: io.BufferedReader, index: ShardIndex, number: int) -> bool:
    """Does the header before a sample's data name it? (A header holds up to 100 bytes of a name.)"""
    row = index.rows[number]
    suffix = "json" if row["json_size"] else AUDIO_SUFFIXES[row["suffix"]]
    member = "json" if row["json_size"] else "audio"
    file.seek(max(0, int(row[f"{member}_offset"]) - BLOCK))
    return names(file.read(BLOCK), f"{index.key(number)}.{suffix}", int(row[f"{member}_size"]))


def names(header: bytes, name: str, size: int) -> bool:
    """Is it the tar header of a member of that name and size? (It may hold a part of the name only, in ASCII.)"""
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
    except tarfile.HeaderError:
        return False
    written = found.name.rpartition("/")[2].lower()
    same = not name.isascii() or name.rpartition("/")[2].lower()[: len(written)] == written
    return same and found.size == size

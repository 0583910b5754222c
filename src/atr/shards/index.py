"""The index beside a tar: where each sample's members lie and how long its sound is.

With it a sample is one `pread` away, so that order, resuming and validation need no second format.
"""

import hashlib
import io
import json
import os
import tarfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import soundfile

from atr.errors import DataError

FORMAT = 1
BLOCK = 512  # bytes; a tar ends with blocks of zeros
AUDIO_SUFFIXES = ("flac", "wav", "ogg", "opus", "mp3")


@dataclass(frozen=True)
class Entry:
    """One sample of a tar. Offsets and sizes in bytes; `frames` samples per channel at `sample_rate` Hz.

    A sound file whose header cannot be read has 0 frames at 0 Hz: it is reported when it is asked for.
    """

    key: str
    suffix: str
    audio_offset: int
    audio_size: int
    json_offset: int
    json_size: int
    sample_rate: int
    channels: int
    frames: int


@dataclass(frozen=True)
class ShardIndex:
    """All samples of one tar, in the tar's order, with the tar's own size and SHA-256."""

    tar: Path
    size: int
    sha256: str
    entries: list[Entry]


def index_path(tar: Path) -> Path:
    """`00000.tar` -> `00000.index.json`."""
    return tar.with_suffix(".index.json")


def load_index(tar: Path) -> ShardIndex:
    """Reads the index of a tar, or makes it when there is none or it belongs to another state of the tar."""
    if (stored := _stored_index(tar)) is not None:
        return stored
    index = build_index(tar)
    try:
        write_index(index)
    except OSError as error:
        warnings.warn(f"{tar} was indexed, but the index cannot be stored beside it: {error}", stacklevel=2)
    return index


def _stored_index(tar: Path) -> ShardIndex | None:
    """The index beside a tar, if it is whole and its size, first and last sample are those of the tar."""
    try:
        content = json.loads(index_path(tar).read_text())
        if content["format"] != FORMAT or content["size"] != tar.stat().st_size:
            return None
        index = ShardIndex(tar, content["size"], content["sha256"], [Entry(**entry) for entry in content["entries"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with tar.open("rb") as file:
        return index if all(_stands_in(file, entry) for entry in (index.entries[0], index.entries[-1])) else None


def _stands_in(file: io.BufferedReader, entry: Entry) -> bool:
    """Does the header before an entry's data name it? (A header holds up to 100 bytes of a name.)"""
    offset, suffix = (entry.json_offset, "json") if entry.json_size else (entry.audio_offset, entry.suffix)
    file.seek(offset - BLOCK)
    name = file.read(100).rstrip(b"\0").decode(errors="replace")
    return f"{entry.key}.{suffix}"[: len(name)].lower() == name.lower() != ""


def build_index(tar: Path) -> ShardIndex:
    """Reads a tar once, from front to end.

    Raises:
        DataError: the file is no tar, is cut off, or holds no sample of sound and json.
    """
    members: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if member.isfile() and stem:
                    parts = members.setdefault(key, {})
                    if suffix.lower() in parts:
                        raise DataError(f"{tar}: holds {member.name!r} twice; write this shard again")
                    parts[suffix.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{tar}: not a readable tar ({error}); write or copy this shard again") from error
    entries = []
    with tar.open("rb") as file:
        end = max((offset + length for parts in members.values() for offset, length in parts.values()), default=0)
        file.seek(-(-end // BLOCK) * BLOCK)
        if members and file.read(BLOCK) != bytes(BLOCK):
            raise DataError(f"{tar}: not a readable tar (cut off, its end is missing); write or copy this shard again")
        for key, parts in members.items():
            sound = next((s for s in AUDIO_SUFFIXES if s in parts), "")
            if not sound and "json" not in parts:
                continue
            entries.append(_entry(file, key, sound, parts))
        if not entries:
            raise DataError(f"{tar}: no sample in it; expected KEY.json beside KEY.{'|'.join(AUDIO_SUFFIXES)}")
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ShardIndex(tar, tar.stat().st_size, digest, entries)


def _entry(file: io.BufferedReader, key: str, suffix: str, parts: dict[str, tuple[int, int]]) -> Entry:
    """Reads the sound's header; a member that is not there has size 0."""
    audio_offset, audio_size = parts.get(suffix, (0, 0))
    json_offset, json_size = parts.get("json", (0, 0))
    rate = channels = frames = 0
    if audio_size:
        file.seek(audio_offset)
        try:
            info = soundfile.info(io.BytesIO(file.read(audio_size)))
            rate, channels, frames = info.samplerate, info.channels, info.frames
        except (soundfile.LibsndfileError, RuntimeError):
            pass  # reported as a bad sample when it is read
    return Entry(key, suffix, audio_offset, audio_size, json_offset, json_size, rate, channels, frames)


def write_index(index: ShardIndex) -> None:
    """Writes the index beside its tar, whole or not at all."""
    path = index_path(index.tar)
    content = {"format": FORMAT, "size": index.size, "sha256": index.sha256}
    content["entries"] = [asdict(entry) for entry in index.entries]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, separators=(",", ":")))
    temporary.replace(path)

"""A tar's members by name, without extracting anything; a damaged tar gives what is whole in it."""

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from atr.errors import DataError
from atr.types import BadSample

BLOCK = 512  # bytes; a tar ends with blocks of zeros
LONGEST_END = 1 << 16  # bytes of zeros; tar pads to 10 240 by default, and to 65 536 with unusual settings
CHUNK = 1 << 20  # bytes searched at a time for the next header
AUDIO_SUFFIXES = ("flac", "wav", "ogg", "opus", "mp3", "m4a", "aac", "mp4", "webm", "mkv")
ODD_HEADER = (tarfile.TarError, ValueError, OverflowError, MemoryError, OSError, RecursionError)
Part = tuple[int, int]  # offset and size of a member's data, bytes


class Window(io.RawIOBase):
    """A stretch of a file as a file of its own, which reads no more than it is asked for.

    Args:
        pread: gives bytes at (offset, count).
        offset, size: of the stretch, bytes.

    Attributes:
        failed: why bytes could not be read, if so. A decoder that calls back from C swallows exceptions and takes
            the place for the end of the file, so whoever gave it the file must look here afterwards.
    """

    def __init__(self, pread: Callable[[int, int], bytes], offset: int, size: int) -> None:
        self.pread, self.offset, self.size = pread, offset, size
        self.position = 0
        self.failed: DataError | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place and returns it."""
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        """What is there of so many bytes; a header that asks for terabytes gets what the stretch holds."""
        there = max(0, self.size - self.position)
        count = there if size is None or size < 0 else min(size, there)
        content = self.pread(self.offset + self.position, count)
        self.position += len(content)
        return content

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer as far as the stretch goes."""
        count = max(0, min(len(buffer), self.size - self.position))
        try:
            buffer[:count] = self.pread(self.offset + self.position, count)
        except DataError as error:
            self.failed = error
            return 0
        self.position += count
        return count


class Scan:
    """What stands in a tar.

    Attributes:
        parts: key -> suffix -> place of the member's data.
        lost: what cannot be used, with the reason.

    Raises:
        DataError: nothing in the file is a tar header.
    """

    def __init__(self, file: io.BufferedReader, name: str) -> None:
        self.file, self.size = file, os.fstat(file.fileno()).st_size
        self.parts: dict[str, dict[str, Part]] = {}
        self.lost: list[BadSample] = []
        self._spoilt: set[str] = set()  # keys that do not count, whatever else stands under them
        members = 0
        for member in self._members():
            members += 1
            self._take(member)
        if not members and not self._spoilt:
            raise DataError(f"{name}: not a readable tar ({self.size} bytes); write or copy this shard again")
        for key in list(self.parts):
            suffixes = self.parts[key]
            if key in self._spoilt or not ("json" in suffixes or any(s in suffixes for s in AUDIO_SUFFIXES)):
                del self.parts[key]
            if key not in self._spoilt and key not in self.parts:
                held = ", ".join(f".{suffix}" for suffix in suffixes)
                self.lost.append(BadSample(key, f"holds neither a sound nor a json, only {held}"))

    def _take(self, member: tarfile.TarInfo) -> None:
        """Enters a member, or the reason why it is not taken."""
        if member.isdir():
            return
        key, suffix = split_name(member.name)
        if (reason := _refusal(member)) is not None:
            self.lost.append(BadSample(member.name, reason))
        elif member.offset_data + member.size > self.size:
            there = max(0, self.size - member.offset_data)
            self._spoil(key, f"its .{suffix} is cut off: {there} of {member.size} bytes are there")
        elif suffix in self.parts.setdefault(key, {}):
            self._spoil(key, f"its .{suffix} stands in the tar twice; write this shard again")
        else:
            self.parts[key][suffix] = (member.offset_data, member.size)

    def _spoil(self, key: str, reason: str) -> None:
        if key not in self._spoilt:
            self._spoilt.add(key)
            self.lost.append(BadSample(key, reason))

    def _members(self) -> Iterator[tarfile.TarInfo]:
        """All members with a whole header, in order; notes each place where the tar is damaged."""
        whole = Window(lambda at, count: os.pread(self.file.fileno(), count, at), 0, self.size)
        offset: int | None = 0
        last: tarfile.TarInfo | None = None
        while offset is not None:
            whole.seek(offset)
            try:
                with tarfile.open(fileobj=whole, mode="r:", errors="backslashreplace") as archive:
                    for member in archive:
                        # A size below 0 would lead back, and for ever on.
                        following = member.offset_data + max(0, -(-member.size // BLOCK) * BLOCK)
                        if following <= offset or member.size < 0:
                            raise tarfile.HeaderError(f"size {member.size}")
                        if following > self.size + BLOCK:  # cut off, or its header lies: is there one behind it?
                            self._take(member)
                            found = self._next_header(member.offset_data)
                            offset = self.size if found is None else found
                            last = member
                            raise tarfile.HeaderError(f"size {member.size}")
                        yield member
                        last, offset = member, following
            except ODD_HEADER:
                pass  # at a damaged or missing header; `offset` is where it should stand
            offset = self._after(offset, last)

    def _after(self, offset: int, last: tarfile.TarInfo | None) -> int | None:
        """Looks at the end of the members that could be read; where to go on, if the tar is damaged there."""
        after = f"after {last.name}" if last else "at its beginning"
        header = os.pread(self.file.fileno(), BLOCK, offset)
        if len(header) < BLOCK:
            if last is None or last.offset_data + last.size <= self.size:  # else it is said of that member
                self.lost.append(BadSample("(end)", f"the tar is cut off: it has no end mark {after}"))
            return None
        following = self._next_header(offset + 1)
        zeros = header == bytes(len(header))
        if zeros and following is None and self.size - offset <= LONGEST_END:
            return None  # the end mark
        until = self.size if following is None else following
        what = "holds only zeros" if zeros else "is damaged"
        key = f"(bytes {offset} to {until})"
        self.lost.append(BadSample(key, f"the tar {what} there, {after}", self._clips(until - offset)))
        if last is not None:
            moved = following is not None and (following - offset) % BLOCK  # bytes are missing, maybe within it
            end = min(self.size, last.offset_data + last.size)
            tail = os.pread(self.file.fileno(), 16, max(0, end - 16))
            if moved or (zeros and not any(tail)):
                self._spoil(split_name(last.name)[0], f"the tar is damaged within it or behind it, at byte {offset}")
        return following

    def _clips(self, lost: int) -> int:
        """How many samples so many bytes may have held."""
        held = sum(length + BLOCK for members in self.parts.values() for _, length in members.values())
        return max(1, round(lost * len(self.parts) / held)) if held else 1

    def _next_header(self, start: int) -> int | None:
        """The next place from `start` on, at any byte, where a whole tar header stands."""
        number, first = self.file.fileno(), start
        while start < self.size:
            chunk = os.pread(number, CHUNK, start)
            at = chunk.find(b"ustar")
            while at >= 0:
                place = start + at - 257
                if place >= first and _is_header(os.pread(number, BLOCK, place)):
                    return place
                at = chunk.find(b"ustar", at + 1)
            start += max(1, CHUNK - 4)
        return None


def split_name(name: str) -> tuple[str, str]:
    """A member's name -> key and suffix. The key ends at the first dot, as for every WebDataset reader.

    Only where that leaves no known suffix, a name such as `Yabc_30.000.wav` is split at its last dot.

    >>> split_name("a/dog.flac"), split_name("Yabc_30.000.wav"), split_name("dog.words.npy")
    (('a/dog', 'flac'), ('Yabc_30.000', 'wav'), ('dog', 'words.npy'))
    """
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    known = (*AUDIO_SUFFIXES, "json")
    if suffix.lower() not in known and (parts := base.rpartition("."))[2].lower() in known:
        stem, _, suffix = parts
    return folder + slash + stem, suffix.lower()


def _is_header(block: bytes) -> bool:
    try:
        return len(block) == BLOCK and tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size >= 0
    except (tarfile.HeaderError, ValueError):
        return False


def _refusal(member: tarfile.TarInfo) -> str | None:
    """Why a member is not taken, whatever it holds."""
    if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
        return "refused: its name leads out of the tar's folder"
    if not member.isreg() or member.issparse():
        return "refused: it is a link, a device or a sparse file"
    return None

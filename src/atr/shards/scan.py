"""A tar's members by name, without extracting anything; a damaged tar gives what is whole in it."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from atr.errors import DataError
from atr.types import BadSample

BLOCK = 512  # bytes; a tar ends with blocks of zeros
Part = tuple[int, int]  # offset and size of a member's data, bytes


def scan_tar(file: io.BufferedReader, tar: Path) -> tuple[dict[str, dict[str, Part]], list[BadSample]]:
    """Returns key -> suffix -> place, and what cannot be used.

    Links, devices, absolute names and names with `..` are refused, one by one. Where a header is damaged, reading
    goes on at the next whole one; a member that runs beyond the end of the file is lost.

    Raises:
        DataError: nothing in the file is a tar header, or a name stands twice.
    """
    size = os.fstat(file.fileno()).st_size
    parts: dict[str, dict[str, Part]] = {}
    lost: list[BadSample] = []
    found = 0
    for member in _members(file, size, lost):
        found += 1
        if (reason := _refusal(member)) is not None:
            lost.append(BadSample(member.name, reason))
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
        if not member.isfile() or not stem:
            continue
        if member.offset_data + member.size > size:
            there = max(0, size - member.offset_data)
            lost.append(BadSample(key, f"its .{suffix} is cut off: {there} of {member.size} bytes are there"))
        elif suffix in parts.setdefault(key, {}):
            raise DataError(f"{tar}: holds {member.name!r} twice; write this shard again")
        else:
            parts[key][suffix] = (member.offset_data, member.size)
    if not found:
        raise DataError(f"{tar}: not a readable tar ({size} bytes); write or copy this shard again")
    cut = {one.key for one in lost}
    return {key: members for key, members in parts.items() if members and key not in cut}, lost


def _members(file: io.BufferedReader, size: int, lost: list[BadSample]) -> Iterator[tarfile.TarInfo]:
    """All members with a whole header, in order; notes each place where the tar is damaged."""
    offset: int | None = 0
    last, end = "its beginning", 0
    while offset is not None:
        file.seek(offset)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    yield member
                    last, end = member.name, member.offset_data + member.size
                    offset = -(-end // BLOCK) * BLOCK
                offset = archive.offset
        except tarfile.TarError:
            pass  # at a damaged or missing header; `offset` is where it should stand
        file.seek(offset)
        header = file.read(BLOCK)
        if not header:
            if end <= size:  # else the last member is cut off, which is said of it
                lost.append(BadSample("(end)", f"the tar is cut off: it has no end mark after {last}"))
            return
        following = _next_header(file, offset)
        if header == bytes(BLOCK) and following is None:
            return  # the end mark, and nothing behind it
        until = "its end" if following is None else f"byte {following}"
        lost.append(BadSample("(unknown)", f"the tar is damaged from byte {offset}, after {last}, to {until}"))
        offset = following


def _next_header(file: io.BufferedReader, offset: int) -> int | None:
    """The next block after `offset` that is a whole tar header."""
    file.seek(offset + BLOCK)
    for number, block in enumerate(iter(lambda: file.read(BLOCK), b""), start=1):
        if block[257:262] == b"ustar":
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                continue
            return offset + number * BLOCK
    return None


def _refusal(member: tarfile.TarInfo) -> str | None:
    """Why a member is not taken, whatever it holds."""
    if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
        return "refused: its name leads out of the tar's folder"
    if not (member.isfile() or member.isdir()):
        return "refused: it is a link or a device, not a file"
    return None

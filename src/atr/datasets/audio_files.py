"""Finds the sound files that a table names, by file name or by YouTube id in the spellings that are in use."""

import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from atr.errors import DataError
from atr.pipeline.decode import open_sound
from atr.shards.scan import AUDIO_SUFFIXES
from atr.types import BadSample, Clip

SLACK = 1.0  # s; a file may be longer by this than the stretch that it holds
_IN_BRACKETS = re.compile(r"\[([A-Za-z0-9_-]{11})\]$")  # `Title [id].webm`


class AudioFiles:
    """The sound files below a folder. Their names lie in a temporary database, because they may be millions.

    Args:
        folder: searched when the first file is asked for; None when only the tables matter: each clip then comes with
            the name that its table gives as `audio`, and with its times.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._names: sqlite3.Connection | None = None

    def named(self, clip: Clip, name: str) -> Clip | BadSample:
        """The clip with its file: that of this path below the folder, or of this name, whatever its suffix."""
        if self.folder is None:
            return replace(clip, audio=name)
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            return BadSample(clip.id, f"{name!r} leaves the folder {self.folder}; names must stay below it")
        if (exact := self.folder / path).is_file():
            return replace(clip, audio=str(exact))
        found = self._find(path.stem if path.suffix[1:].lower() in AUDIO_SUFFIXES else path.name)
        if len(found) > 1:  # the folders may tell them apart
            inner = [one for one in found if one.parent == (self.folder / path).parent]
            found = inner or found
        return self._only(clip, found, name)

    def video(self, clip: Clip, video: str, start: float | None, end: float | None) -> Clip | BadSample:
        """The clip with its file and the stretch to cut out of it, found by YouTube id.

        A name with the times in it (`ID_30`, `ID_30_40`, `ID_30000_40000`, `ID_000030`) is the stretch itself. `ID` and
        `Title [ID]` are the stretch when they are no longer than it, else the whole video. Each may begin with `Y`.

        Args:
            clip: without `audio`.
            video: the id.
            start: s in the video; None when the table does not tell.
            end: s in the video.
        """
        if self.folder is None:
            return replace(clip, audio=video, start=start, end=end)
        for stem in _with_times(video, start, end):
            if found := self._find(stem):
                return self._only(clip, found, video)
        for stem in (video, f"Y{video}"):
            if found := self._find(stem):
                placed = self._only(clip, found, video)
                return placed if isinstance(placed, BadSample) else _cut(placed, start, end)
        return BadSample(clip.id, f"no file for video {video!r} below {self.folder}")

    def paths(self) -> list[Path]:
        """All sound files, sorted: for corpora whose labels stand in the names. None where there is no folder."""
        if self.folder is None:
            return []
        if self._names is None:
            self._names = _index(self.folder)
        rows = self._names.execute("SELECT DISTINCT path FROM files ORDER BY path")
        return [self.folder / os.fsdecode(path) for (path,) in rows]

    def _only(self, clip: Clip, found: list[Path], name: str) -> Clip | BadSample:
        if not found:
            return BadSample(clip.id, f"no file {name!r} below {self.folder}")
        if len(found) > 1:
            listed = ", ".join(map(str, found[:3]))
            return BadSample(clip.id, f"{name!r} stands for {len(found)} files ({listed}); keep one of them")
        return replace(clip, audio=str(found[0]))

    def _find(self, stem: str) -> list[Path]:
        assert self.folder is not None
        if self._names is None:
            self._names = _index(self.folder)
        rows = self._names.execute("SELECT path FROM files WHERE stem = ? ORDER BY path", (os.fsencode(stem),))
        return [self.folder / os.fsdecode(path) for (path,) in rows]


def _index(folder: Path) -> sqlite3.Connection:
    """Stem -> path below the folder, as bytes: names on disk may be of any encoding.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"the folder of sounds {folder} does not exist; name it with --audio-dir")
    names = sqlite3.connect("")  # a temporary file of SQLite's own, gone with the connection
    names.execute("CREATE TABLE files (stem BLOB, path BLOB)")
    names.executemany("INSERT INTO files VALUES (?, ?)", _sound_files(folder))
    names.execute("CREATE INDEX by_stem ON files (stem)")
    return names


def _sound_files(folder: Path) -> Iterator[tuple[bytes, bytes]]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in files:
            stem, suffix = os.path.splitext(name)
            if suffix[1:].lower() in AUDIO_SUFFIXES:
                path = os.fsencode(os.path.relpath(os.path.join(parent, name), folder))
                yield os.fsencode(stem), path
                if match := _IN_BRACKETS.search(stem):
                    yield os.fsencode(match[1]), path


def _with_times(video: str, start: float | None, end: float | None) -> Iterator[str]:
    """The names under which people keep the stretch of a video."""
    if start is None:
        return
    for name in (video, f"Y{video}"):
        for times in [(start,), (start, end)] if end is not None else [(start,)]:
            yield "_".join([name, *(f"{time:g}" for time in times)])
            yield "_".join([name, *(f"{time:.1f}" for time in times)])
            yield "_".join([name, *(f"{time:.3f}" for time in times)])
            yield "_".join([name, *(f"{round(time * 1000)}" for time in times)])
            yield "_".join([name, *(f"{round(time):06d}" for time in times)])


def _cut(clip: Clip, start: float | None, end: float | None) -> Clip | BadSample:
    """Is the clip's file the stretch already, or does it have to be cut out of it?"""
    if start is None:
        return clip
    try:
        with open_sound(clip.audio) as sound:
            held = sound.frames / sound.rate
    except DataError as error:
        return BadSample(clip.id, f"{clip.audio}: {error}")
    length = float("inf") if end is None else end - start
    if held <= length + SLACK and (end is not None or start == 0):
        return clip
    if held > start:
        return replace(clip, start=start, end=end)
    return BadSample(
        clip.id, f"{clip.audio}: its {held:.1f} s are neither the stretch nor reach its start, {start:g} s"
    )

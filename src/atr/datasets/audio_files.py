"""Finds the sound files that a table names, by file name or by YouTube id in the spellings that are in use."""

import os
import re
import sqlite3
import warnings
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from atr.errors import DataError
from atr.pipeline.decode import open_sound
from atr.shards.scan import AUDIO_SUFFIXES
from atr.types import BadSample, Clip

SLACK = 1.0  # s; a file may be longer by this than the stretch that it holds
_IN_BRACKETS = re.compile(r"\[([A-Za-z0-9_-]{11})\]$")  # `Title [id].webm`
_WITH_TIMES = re.compile(r"Y?([A-Za-z0-9_-]{11})(_\d+(\.\d+)?){1,2}")  # `id_30_40`
_ANY_TIMES = "\0"  # before an id: the stems that have times behind it; no file name holds it


class AudioFiles:
    """The sound files below a folder. Their names lie in a temporary database, because they may be millions.

    Args:
        folder: searched when the first file is asked for; None when only the tables matter: each clip then comes with
            the name that its table gives as `audio`, and with its times.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._names: sqlite3.Connection | None = None

    def named(
        self, clip: Clip, name: str, inside: Collection[str] = (), outside: Collection[str] = ()
    ) -> Clip | BadSample:
        """The clip with its file: that of this path below the folder, or of this name, whatever its suffix.

        Of several, those with the very suffix come first, then those in the folder that the name begins with (one
        without means the top).

        Args:
            clip: without `audio`.
            name: as the table has it.
            inside: names of folders; of several files, those below one of them come first.
            outside: names of folders; what lies below one of them belongs to another part of the corpus.
        """
        if self.folder is None:
            return replace(clip, audio=name)
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            return BadSample(clip.id, f"{name!r} leaves the folder {self.folder}; names must stay below it")
        exact = self.folder / path
        if os.path.isfile(exact):  # unlike Path's, it takes names that no file system does
            return replace(clip, audio=str(exact))
        found = self._find(path.stem if path.suffix[1:].lower() in AUDIO_SUFFIXES else path.name)
        places = {one: one.parent.relative_to(self.folder).parts for one in found}
        found = [one for one in found if not set(places[one]) & set(outside)]
        found = [one for one in found if set(places[one]) & set(inside)] or found
        found = [one for one in found if one.name == path.name] or found
        found = [one for one in found if _ends_with(places[one], path.parent.parts)] or found
        return self._only(clip, found, name)

    def video(self, clip: Clip, video: str, start: float | None, end: float | None) -> Clip | BadSample:
        """The clip with its file and the stretch to cut out of it, found by YouTube id.

        A name with the times in it (`ID_30`, `ID_30_40`, `ID_30_10` with the length, `ID_30000_40000`, `ID_000030`) is
        the stretch itself. `ID` and `Title [ID]` are the stretch when they are no longer than it, else the whole video.
        All but the last may begin with `Y`. Where the table tells no times, a name with any times will do.

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
                return placed if isinstance(placed, BadSample) else cut(placed, start, end)
        if start is None and (found := self._find(_ANY_TIMES + video)):
            return self._only(clip, found, video)
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
        try:
            key = os.fsencode(stem)
        except UnicodeEncodeError:  # a lone half of a surrogate pair, from JSON
            return []
        rows = self._names.execute("SELECT path FROM files WHERE stem = ? ORDER BY path", (key,))
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


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` with names sorted: links are followed, no folder is entered twice, an unreadable one is warned of.

    What is removed from the list of folders is not entered.
    """
    seen = set()
    for parent, folders, files in os.walk(folder, onerror=_warn, followlinks=True):
        about = os.stat(parent)
        if (about.st_dev, about.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders.sort()
        yield parent, folders, sorted(files)


def _warn(error: OSError) -> None:
    warnings.warn(f"{error.filename} cannot be read ({error.strerror}): sounds in it are not found", stacklevel=2)


def _sound_files(folder: Path) -> Iterator[tuple[bytes, bytes]]:
    for parent, _, files in walk(folder):
        for name in files:
            stem, suffix = os.path.splitext(name)
            if suffix[1:].lower() in AUDIO_SUFFIXES:
                path = os.fsencode(os.path.relpath(os.path.join(parent, name), folder))
                yield os.fsencode(stem), path
                if match := _IN_BRACKETS.search(stem):
                    yield os.fsencode(match[1]), path
                elif match := _WITH_TIMES.fullmatch(stem):
                    yield os.fsencode(_ANY_TIMES + match[1]), path


def _ends_with(parts: tuple[str, ...], end: tuple[str, ...]) -> bool:
    return parts[len(parts) - len(end) :] == end if end else not parts


def _with_times(video: str, start: float | None, end: float | None) -> Iterator[str]:
    """The names under which people keep the stretch of a video."""
    if start is None:
        return
    starts = [(start,)] if end is None else [(start,), (start, end), (start, end - start)]
    for name in (video, f"Y{video}"):
        for times in starts:
            yield "_".join([name, *(f"{time:.3f}".rstrip("0").rstrip(".") for time in times)])
            yield "_".join([name, *(f"{time:.1f}" for time in times)])
            yield "_".join([name, *(f"{time:.3f}" for time in times)])
            yield "_".join([name, *(f"{round(time * 1000)}" for time in times)])
            yield "_".join([name, *(f"{round(time):06d}" for time in times)])


def cut(clip: Clip, start: float | None, end: float | None) -> Clip | BadSample:
    """The clip, whose file is the stretch already, or with the times at which it has to be cut out of the file.

    Args:
        clip: with its file.
        start: s in the recording; None when nobody knows: then the file is taken as it is.
        end: s in the recording.
    """
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

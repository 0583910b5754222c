"""Lists of recordings that are not to be trained on: WavCaps' black lists, and plain text."""

import json
import re
from pathlib import Path
from typing import Any

from atr.datasets.tables import youtube_id_after_y
from atr.errors import DataError

_SITES = {"AudioSet": "youtube", "FreeSound": "freesound", "BBC_Sound_Effects": "bbc", "SoundBible": "soundbible"}
_SOURCE = re.compile(r"[a-z0-9_.-]+:\S.*")


def read_exclusions(path: Path) -> set[str]:
    """The recordings of a list, as `Clip.source` has them: `youtube:r1nicOVtvkQ`, `freesound:102844`.

    Args:
        path: a json like WavCaps' black lists, `{"AudioSet": ["Yr1nicOVtvkQ.wav"], "FreeSound": ["102844"]}`, or a
            text file with a source in each line; empty lines and those that begin with # do not count.

    Raises:
        DataError: it cannot be read, or an entry is no source; the message names the line, or the key and the number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text ({error})") from error
    if text.lstrip().startswith(("{", "[")):
        return _from_json(text, path)
    found = set()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not _SOURCE.fullmatch(line):
            raise DataError(f"{path}:{number}: {line!r} is no source; write youtube:r1nicOVtvkQ or freesound:102844")
        found.add(line)
    return found


def _from_json(text: str, path: Path) -> set[str]:
    try:
        lists = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({error})") from error
    if not isinstance(lists, dict):
        raise DataError(f"{path}: is a list; needed is an object with the keys {', '.join(_SITES)}")
    found = set()
    for key, entries in lists.items():
        if key not in _SITES:
            raise DataError(f"{path}: has the unknown key {key!r}; known are {', '.join(_SITES)}")
        if not isinstance(entries, list):
            raise DataError(f"{path}: {key} is a {type(entries).__name__}, not a list")
        for number, entry in enumerate(entries):
            name = _recording(key, entry)
            if not name:
                raise DataError(f"{path}: {key}[{number}] is {entry!r}, which is no id of a recording")
            found.add(f"{_SITES[key]}:{name}")
    return found


def _recording(key: str, entry: Any) -> str | None:
    if isinstance(entry, int) and not isinstance(entry, bool):
        entry = str(entry)
    if not isinstance(entry, str):
        return None
    name = re.sub(r"\.(wav|flac)$", "", entry.strip())
    return youtube_id_after_y(name) if key == "AudioSet" else name

"""Any table of video ids with times and captions: AutoReCap, ambience-audio, Flickr videos as SoundNet's."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from atr.datasets.audio_files import AudioFiles
from atr.datasets.corpus import Card, Raw
from atr.datasets.jsonl import json_lines
from atr.datasets.own import ALL, FIELDS, Columns, Record, find_table, rows_of, splits_of
from atr.datasets.tables import find_delimiter, read_header, read_table, seconds, youtube_id
from atr.errors import DataError
from atr.types import BadSample, Clip

CARD = Card(
    name="videos",
    homepage="https://github.com/snap-research/GenAU (AutoReCap), "
    "https://huggingface.co/datasets/igorriti/ambience-audio, https://projects.csail.mit.edu/soundnet",
    licence="the list's own; the sound belongs to the videos' authors",
    splits=(ALL,),
    captions="as many as there are columns or rows for a clip",
    citation="AutoReCap: Haji-Ali et al.: Taming Data and Transformers for Audio Generation. arXiv 2406.19388; "
    "SoundNet: Aytar, Vondrick, Torralba: SoundNet: Learning Sound Representations from Unlabeled Video. NeurIPS 2016",
    faults=(
        "a row with a start and neither end nor duration lasts 10 s; a row without start is the whole file",
        "ambience-audio has no times, and its videos last hours",
        "all lists: videos vanish, and whether their sound may be used differs by country",
    ),
    unverified="AutoReCap from its download script (an object a line: id -> intervals with start, end, text); "
    "ambience-audio from its card (id, title, thumbnailUrl, caption); SoundNet's lists were not seen",
)
LENGTH = 10.0  # s
ALIASES = {
    "id": ("id", "video_id", "youtube_id", "ytid", "video", "url"),
    "start": ("start", "start_time", "start_seconds", "start_sec"),
    "end": ("end", "end_time", "end_seconds", "end_sec", "to"),
    "duration": ("duration", "length"),
    "caption": ("caption", "captions", "text", "autocap_caption"),
    "label": ("label", "labels", "tags"),
}
_CUT = " cut"  # a column of our own
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_URL = re.compile(r"(?:v=|youtu\.be/|/embed/|/shorts/)([A-Za-z0-9_-]{11})(?![A-Za-z0-9_-])")
_FLICKR = re.compile(r"(?:https?://(?:www\.)?flickr\.com/photos/[^/]+/)?(\d{6,12})/?")


def splits(raw: Raw) -> tuple[str, ...]:
    """The values of the column of the splits, or `all`."""
    path = find_table(raw.root, *_SUFFIXES)
    return splits_of(_rows(raw, path), _columns(raw, path))


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """The rows of a split; columns are those that the known lists have, or those given (also `duration`).

    Raises:
        DataError: the table has no column of ids, or not the one given.
    """
    path = find_table(raw.root, *_SUFFIXES)
    columns = _columns(raw, path)
    there: dict[str, None] = {}
    for row in rows_of(_rows(raw, path), columns, split):
        if isinstance(row, BadSample):
            yield row
            continue
        there.update(dict.fromkeys(row[1]))
        clip = _clip(row, columns, split)
        yield clip if isinstance(clip, BadSample) else _placed(raw.audio, clip, row[1].get(_CUT))
    columns.check(there)


def _placed(audio: AudioFiles, clip: Clip, cut: str | None) -> Clip | BadSample:
    """The clip with its file; `cut` is the name under which AutoReCap's own script keeps the stretch."""
    placed = audio.video(clip, clip.audio, clip.start, clip.end)
    if cut and isinstance(placed, BadSample):
        stretch = audio.named(replace(clip, start=None, end=None), cut)
        return placed if isinstance(stretch, BadSample) else stretch
    return placed


def _columns(raw: Raw, path: Path) -> Columns:
    return Columns(raw.columns, path, (*FIELDS, "duration"))


def _rows(raw: Raw, path: Path) -> Iterator[Record | BadSample]:
    if path.suffix.lower() not in (".csv", ".tsv"):
        for row in json_lines(path):
            if isinstance(row, BadSample):
                yield row
            else:
                yield from _intervals(row)
        return
    delimiter = "\t" if path.suffix.lower() == ".tsv" else find_delimiter(path, raw.encoding)
    there = read_header(path, delimiter, raw.encoding)
    columns = _columns(raw, path)
    ids = columns.names.get("id") or [name for name in there if name.lower() in ALIASES["id"]][:1]
    if not ids:
        raise DataError(f"{path}: has no column of video ids; its columns are {', '.join(map(repr, there))}")
    for line in read_table(path, sorted({*ids, *columns.missing}), delimiter=delimiter, encoding=raw.encoding):
        yield line if isinstance(line, BadSample) else _aliased((line.where, line.cells))


def _intervals(row: Record) -> Iterator[Record]:
    """AutoReCap's line, `{ID: {"intervals": [...]}}`, gives a row per interval; any other line is one row."""
    where, values = row
    nested = {name: one["intervals"] for name, one in values.items() if isinstance(one, dict) and "intervals" in one}
    if not nested:
        yield _aliased(row)
    for video, intervals in nested.items():
        for number, one in enumerate(intervals if isinstance(intervals, list) else []):
            named = {"id": video, _CUT: f"{video}_{number:03d}", **(one if isinstance(one, dict) else {})}
            yield _aliased((f"{where}: {video}[{number}]", named))


def _aliased(row: Record) -> Record:
    """The row with its known columns also under the names of the fields."""
    where, values = row
    lower = {name.lower(): value for name, value in reversed(list(values.items()))}
    known: dict[str, Any] = {}
    for name, aliases in ALIASES.items():
        if found := [lower[alias] for alias in aliases if lower.get(alias) not in (None, "")]:
            known[name] = found[0]
    return where, {**values, **known}


def _clip(row: Record, columns: Columns, split: str) -> Clip | BadSample:
    where, values = row
    text = _text(columns, values, "id")
    video, source = _video(text)
    if not video:
        return BadSample(where, f"{text!r} is neither a YouTube id (11 characters) nor a Flickr id (digits)")
    times: dict[str, float | None] = {}
    for name in ("start", "end", "duration"):
        time = seconds(found, where) if (found := _text(columns, values, name)) else None
        if isinstance(time, BadSample):
            return time
        times[name] = time
    start, end = times["start"], times["end"]
    if start is not None and end is None:
        end = start + (times["duration"] or LENGTH)
    if end is not None and end <= (start or 0):
        return BadSample(where, f"ends at {end:g} s, which is not after its start, {start or 0:g} s")
    if start is None and end is not None:
        start = 0.0
    captions = columns.values(values, "caption")
    if wrong := next((one for one in captions if not isinstance(one, str)), None):
        return BadSample(where, f"has the caption {wrong!r}, which is no text")
    return Clip(
        id=video if start is None else f"{video}_{start:g}", audio=video, captions=captions,
        labels=[str(one) for one in columns.values(values, "label")], split=split,
        title=_text(columns, values, "title"), start=start, end=end, source=_text(columns, values, "source") or source,
        licence=_text(columns, values, "licence"),
    )  # fmt: skip


def _text(columns: Columns, row: Mapping[str, Any], name: str) -> str:
    return str(next(iter(columns.values(row, name)), ""))


def _video(text: str) -> tuple[str, str]:
    """The id in a cell, which may be a URL, and the recording as `site:id`. Digits only are Flickr's."""
    if match := _FLICKR.fullmatch(text):
        return match[1], f"flickr:{match[1]}"
    match = _URL.search(text) if "/" in text else None
    video = match[1] if match else youtube_id(text)
    return (video, f"youtube:{video}") if video else ("", "")

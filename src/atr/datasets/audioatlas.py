"""AudioAtlas: 1165 sound effects of 276 classes, with captions of the whole and of each event with its times."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from atr.datasets.audio_files import cut
from atr.datasets.corpus import Card, Download, Raw, need_file
from atr.datasets.json_records import read_records
from atr.errors import DataError
from atr.types import BadSample, Clip

_FILES = "https://raw.githubusercontent.com/AudioAtlas/AudioAtlas/main/metas"
CARD = Card(
    name="AudioAtlas",
    homepage="https://audioatlas.github.io/AudioAtlas/",
    licence="annotations CC BY-NC-SA 4.0; the sound is sold by artlist.io and audiostock.io",
    splits=("overall", "events"),
    captions="1; `events` has a clip for each group of events, with that group's 1 to 5",
    citation="AudioAtlas: A Comprehensive and Balanced Benchmark Towards Movie-Oriented Text-to-Audio Generation. "
    "https://github.com/AudioAtlas/AudioAtlas (no paper yet)",
    faults=(
        "it has no splits: both are views of the same 1165 clips, for evaluation",
        "times refer to the source track; here they are moved so that the first event begins with the clip",
        "the announced resolution of 0.1 s is not kept: 78 % of the onsets are finer",
        "the sound has to be bought and cut; 22 clips share a track with another",
    ),
    unverified="the names of the sound files, after the samples in the publisher's repository (ID.wav)",
    downloads=tuple(Download(url=f"{_FILES}/{name}", path=name) for name in ("AudioAtlas.json", "SoundTrace.jsonl")),
)
SLACK = 0.2  # s; what the events may end after the clip's duration
Event = tuple[str, float, float]
_ID = re.compile(r"(([A-Za-z]+)_(\d+))(_\d+)?")


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`AudioAtlas.json`, and `SoundTrace.jsonl` where it is there, to check themes and classes."""
    path = need_file(raw.root / "AudioAtlas.json", "AudioAtlas' annotations")
    table = raw.root / "SoundTrace.jsonl"
    themes = _themes(table) if table.is_file() else None
    seen = set()
    for record in read_records(path):
        if isinstance(record, BadSample):
            yield record
            continue
        where, fields = record
        read_clip = _clip(fields, where, themes, split)
        if isinstance(read_clip, BadSample):
            yield read_clip
        elif read_clip[0].id in seen:
            yield BadSample(where, f"{read_clip[0].id!r} came before")
        else:
            clip, groups, begin = read_clip
            seen.add(clip.id)
            placed = _placed(raw, clip, fields.get("audio_url"), begin)
            if split == "overall" or isinstance(placed, BadSample):
                yield placed
            else:
                yield from (_event_clip(placed, number, group) for number, group in enumerate(groups, 1))


def _clip(
    fields: dict[str, Any], where: str, themes: dict[str, set[str]] | None, split: str
) -> tuple[Clip, list[list[Event]], float] | BadSample:
    """The clip without its file, its groups of events, and its beginning in the source track (s)."""
    name, caption, duration = (fields.get(key) for key in ("id", "overall_caption", "duration"))
    match = _ID.fullmatch(name) if isinstance(name, str) else None
    if match is None or not isinstance(name, str):
        return BadSample(where, f"id is {name!r}; it should be like Artlist_100216 or audiostock_505870_2")
    if not isinstance(caption, str) or not caption.strip():
        return BadSample(where, f"{name} has no overall_caption")
    if not isinstance(duration, int | float) or not 0 < duration < 1e5:
        return BadSample(where, f"{name}: duration is {duration!r}, not a number of seconds")
    parts = [part.strip() for part in str(fields.get("category", "")).split(";")]
    if themes is not None and parts[-1] not in themes.get(parts[0], ()):
        return BadSample(where, f"{name}: {parts[-1]!r} is no class of the theme {parts[0]!r} in SoundTrace.jsonl")
    try:
        groups = [_group(group) for group in fields["events"].values()]
        begin = min(onset for group in groups for _, onset, _ in group)
        end = max(offset for group in groups for _, _, offset in group)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return BadSample(
            where, f"{name}: events are not {{number: [[caption, [[onset, offset], ...]], ...]}} ({error})"
        )

    def moved(time: float) -> float:
        return round(min(time - begin, duration), 3)

    if end - begin > duration + SLACK:
        return BadSample(where, f"{name}: its events take {end - begin:.2f} s, the clip only {duration:.2f} s")
    groups = [[(text, moved(onset), moved(offset)) for text, onset, offset in group] for group in groups]
    clip = Clip(
        id=name, audio="", captions=[caption.strip()], labels=[parts[0], parts[-1]], split=split, duration=duration,
        events=[event for group in groups for event in group], source=f"{match[2].lower()}:{match[3]}",
        dataset=CARD.name, licence=CARD.licence,
    )  # fmt: skip
    return clip, groups, begin


def _group(group: Any) -> list[Event]:
    events = [(text.strip(), float(on), float(off)) for text, intervals in group for on, off in intervals]
    for text, onset, offset in events:
        if not (text and 0 <= onset <= offset):
            raise ValueError(f"{text!r} lasts from {onset} to {offset} s")
    return events


def _event_clip(clip: Clip, number: int, group: list[Event]) -> Clip:
    """The stretch of a clip that a group of events takes, with that group's captions."""
    first, last = min(onset for _, onset, _ in group), max(offset for _, _, offset in group)
    base = clip.start or 0.0
    return replace(
        clip, id=f"{clip.id}_event{number}", captions=list(dict.fromkeys(text for text, _, _ in group)),
        start=base + first, end=base + last, duration=round(last - first, 3),
        events=[(text, round(onset - first, 3), round(offset - first, 3)) for text, onset, offset in group],
    )  # fmt: skip


def _placed(raw: Raw, clip: Clip, url: Any, begin: float) -> Clip | BadSample:
    """The clip with its file, which is called by the id or as in the URL, and holds the clip or the whole track."""
    placed = raw.audio.named(clip, clip.id)
    if isinstance(placed, BadSample) and isinstance(url, str):
        name = PurePosixPath(unquote(urlsplit(url).path)).name
        again = raw.audio.named(clip, name) if name else placed
        placed = placed if isinstance(again, BadSample) else again
    if isinstance(placed, BadSample) or raw.audio.folder is None or clip.duration is None:
        return placed
    return cut(placed, begin, begin + clip.duration)


def _themes(path: Path) -> dict[str, set[str]]:
    """Theme -> its classes, from lines {"Theme": ["class", ...]}."""
    themes = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            themes.update({theme: set(map(str.strip, classes)) for theme, classes in json.loads(line).items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}:{number}: is not an object {{theme: [class, ...]}} ({error})") from error
    return themes

"""AudioCaps: ten-second clips of AudioSet's videos with captions by people."""

from collections.abc import Iterator
from dataclasses import replace

from atr.datasets.corpus import Card, Download, Raw, need_file
from atr.datasets.tables import read_table, seconds, youtube_id
from atr.types import BadSample, Clip

_TABLES = "https://raw.githubusercontent.com/cdjkim/audiocaps/master/dataset"
CARD = Card(
    name="AudioCaps",
    homepage="https://audiocaps.github.io",
    licence="captions MIT; the sound belongs to the videos' authors",
    splits=("train", "validation", "test"),
    captions="1; validation and test 5 (version 2: train has several for some clips)",
    citation="Kim, Kim, Lee, Kim: AudioCaps: Generating Captions for Audios in The Wild. NAACL 2019, N19-1011",
    faults=(
        "videos vanish: papers report test sets of 893 to 975 clips; the summary says how many were found",
        "ids that begin with - or = are damaged by spreadsheets (#NAME?); such rows are named",
    ),
    downloads=tuple(Download(url=f"{_TABLES}/{name}.csv", path=f"{name}.csv") for name in ("train", "val", "test")),
)
LENGTH = 10.0  # s
_FILES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`train.csv`, `val.csv`, `test.csv` of version 1 or 2; all rows of a clip give its captions."""
    path = need_file(raw.root / _FILES[split], "AudioCaps' table of this split")
    clips: dict[str, Clip] = {}
    for row in read_table(path, ["youtube_id", "start_time", "caption"]):
        if isinstance(row, BadSample):
            yield row
            continue
        video, start = youtube_id(row["youtube_id"]), seconds(row["start_time"], row.where)
        if video is None:
            yield BadSample(row.where, f"{row['youtube_id']!r} is no YouTube id")
        elif isinstance(start, BadSample):
            yield start
        elif not row["caption"]:
            yield BadSample(row.where, "has no caption")
        else:
            name = f"{video}_{start:g}"
            clip = clips.get(name) or Clip(
                id=name, audio="", split=split, source=f"youtube:{video}", dataset=CARD.name, licence=CARD.licence,
                start=start, end=start + LENGTH,
            )  # fmt: skip
            clips[name] = replace(clip, captions=[*clip.captions, row["caption"]])
    for clip in clips.values():
        video = clip.source.removeprefix("youtube:")
        yield raw.audio.video(replace(clip, start=None, end=None), video, clip.start, clip.end)

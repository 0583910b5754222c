"""Auto-ACD: 1.5 million clips of AudioSet and VGGSound with captions made by a pipeline of models."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from atr.datasets.corpus import Card, Download, Raw, need_file
from atr.datasets.tables import Seen, read_table, seconds, youtube_id, youtube_id_after_y
from atr.types import BadSample, Clip

_FILES = "https://huggingface.co/datasets/Loie/Auto-ACD/resolve/main"
CARD = Card(
    name="Auto-ACD",
    homepage="https://auto-acd.github.io",
    licence="none is stated; the sound belongs to the videos' authors",
    splits=("train", "validation", "test", "train_vggsound"),
    captions="1",
    citation="Sun, Xu, Wu, Xie: Auto-ACD: A Large-scale Dataset for Audio-Language Representation Learning. "
    "ACM Multimedia 2024, DOI 10.1145/3664647.3681472, arXiv:2309.11500",
    faults=(
        "rows have no times, and two stretches of a video, of AudioSet and of VGGSound, cannot be told apart: of an "
        "id that comes twice the first row is taken, the others are named",
        "some ids begin with Y, others have lost their leading dashes; both are repaired",
        "no validation table was published; `validation` reads a val.csv of one's own",
        "`train_vggsound` is the rows of train whose video is in vggsound.csv, from where their times come",
    ),
    unverified="columns and ids, after reference and a reader in the repository "
    "KarthikKolluriKB/CARD-Encoder-Free-Audio-Captioning; vggsound.csv, after VGGSound's description",
    downloads=tuple(Download(url=f"{_FILES}/{name}.csv", path=f"{name}.csv") for name in ("train", "test")),
)
LENGTH = 10.0  # s
_TABLES = {"train": "train.csv", "train_vggsound": "train.csv", "validation": "val.csv", "test": "test.csv"}
_WITHOUT_DASHES = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{7,9}")


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`train.csv`, `val.csv`, `test.csv`; for `train_vggsound` also VGGSound's own `vggsound.csv`."""
    path = need_file(raw.root / _TABLES[split], "Auto-ACD's table of this split")
    starts: dict[str, float] | None = None
    if split == "train_vggsound":
        starts, damaged = _vggsound(need_file(raw.root / "vggsound.csv", "VGGSound's table, which gives the times"))
        yield from damaged
    seen = Seen()
    for row in read_table(path, ["youtube_id", "caption"]):
        if isinstance(row, BadSample):
            yield row
            continue
        video = _video(row["youtube_id"])
        if video is None:
            yield BadSample(row.where, f"{row['youtube_id']!r} is no YouTube id")
        elif starts is not None and video not in starts:
            continue
        elif not row["caption"]:
            yield BadSample(row.where, "has no caption")
        elif seen(video):
            yield BadSample(row.where, f"{video!r} came before, and without times the stretches cannot be told apart")
        else:
            start = None if starts is None else starts[video]
            clip = Clip(
                id=video if start is None else f"{video}_{start:g}", audio="", captions=[row["caption"]], split=split,
                source=f"youtube:{video}", dataset=CARD.name, licence=CARD.licence,
            )  # fmt: skip
            yield raw.audio.video(clip, video, start, None if start is None else start + LENGTH)


def _video(text: str) -> str | None:
    """The id of a video, with the dashes that a spreadsheet may have taken from its beginning."""
    if video := youtube_id_after_y(text):
        return video
    return youtube_id(text.rjust(11, "-")) if _WITHOUT_DASHES.fullmatch(text) else None


def _vggsound(path: Path) -> tuple[dict[str, float], list[BadSample]]:
    """Id -> start, s, and the rows that tell none."""
    starts: dict[str, float] = {}
    damaged = []
    for row in read_table(path, ["id", "start"], header=["id", "start", "label", "part"]):
        if isinstance(row, BadSample):
            damaged.append(row)
            continue
        start = seconds(row["start"], row.where)
        if isinstance(start, BadSample):
            damaged.append(start)
        else:
            starts.setdefault(row["id"], start)
    return starts, [replace(one, clips=0) for one in damaged]

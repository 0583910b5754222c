"""VGGSound: ten-second stretches of YouTube videos, each with one of 309 labels of what is seen and heard."""

import re
from collections.abc import Iterator

from atr.datasets.corpus import Card, Download, Raw, find_file
from atr.datasets.tables import Row, read_table, seconds, youtube_id
from atr.types import BadSample, Clip

CARD = Card(
    name="VGGSound",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/vggsound/",
    licence="labels CC BY 4.0; the sound belongs to the videos' authors",
    splits=("train", "test"),
    captions="none: labels",
    citation="Chen, Xie, Vedaldi, Zisserman: VGGSound: A Large-scale Audio-Visual Dataset. ICASSP 2020, "
    "arXiv 2004.14368",
    faults=(
        "videos vanish: say how many clips of a split you had",
        "a video may give several clips: compare by source, not by id",
        "one label per clip, where several things are often heard",
    ),
    downloads=(Download(url="https://www.robots.ox.ac.uk/~vgg/data/vggsound/vggsound.csv", path="vggsound.csv"),),
    unverified="the train rows and the column of the split: from the publisher's description; the test rows are "
    "checked with the 15 446 of `vggsound_test.csv`",
)
LENGTH = 10.0  # s
_HEADER = ("video", "start", "label", "split")
_NAME = re.compile(r"(?P<video>.{11})_(?P<start>\d{6})(\.\w+)?")


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`vggsound.csv` (video, start second, label, split), or `vggsound_test.csv` (`ID_000030.mp4`, label)."""
    path = find_file(raw.root, ["vggsound.csv", f"vggsound_{split}.csv"], "VGGSound's table, which has no header")
    if path.name == "vggsound.csv":
        for row in read_table(path, _HEADER, header=_HEADER):
            if isinstance(row, BadSample):
                yield row
            elif row["split"] not in CARD.splits:
                yield BadSample(row.where, f"is of the split {row['split']!r}; there are {', '.join(CARD.splits)}")
            elif row["split"] == split:
                yield _clip(raw, row, row["video"], row["start"], split)
        return
    for row in read_table(path, ("name", "label"), header=("name", "label")):
        if isinstance(row, BadSample):
            yield row
        elif match := _NAME.fullmatch(row["name"]):
            yield _clip(raw, row, match["video"], match["start"], split)
        else:
            yield BadSample(row.where, f"{row['name']!r} is no name such as ---1_cCGK4M_000030.mp4")


def _clip(raw: Raw, row: Row, name: str, begin: str, split: str) -> Clip | BadSample:
    video, start = youtube_id(name), seconds(begin, row.where)
    if video is None:
        return BadSample(row.where, f"{name!r} is no YouTube id")
    if isinstance(start, BadSample):
        return start
    if not row["label"]:
        return BadSample(row.where, "has no label")
    clip = Clip(
        id=f"{video}_{start:06.0f}", audio="", labels=[row["label"]], split=split, source=f"youtube:{video}",
        dataset=CARD.name, licence=CARD.licence,
    )  # fmt: skip
    return raw.audio.video(clip, video, start, start + LENGTH)

"""SoundingEarth: 50 545 geotagged field recordings of radio aporee, with what their authors wrote about them."""

from collections.abc import Iterator

from atr.datasets.corpus import Card, Raw, need_file
from atr.datasets.tables import read_table
from atr.types import BadSample, Clip

CARD = Card(
    name="SoundingEarth",
    homepage="https://zenodo.org/records/5600379",
    licence="each recording its author's (Creative Commons; see radio aporee)",
    splits=("train", "validation", "test"),
    captions="0 or 1: the author's description, in many languages; the title is the recording's",
    citation="Heidler, Mou, Hu, Jin, Li, Gan, Wen, Zhu: Self-supervised audiovisual representation learning for remote "
    "sensing data. International Journal of Applied Earth Observation and Geoinformation 116, 2023, arXiv 2108.00688",
    faults=(
        "descriptions tell of places and equipment as often as of sound; recordings last minutes",
        "splits by the last digit of the key, as in the authors' code: 7 validation, 2 and 5 test",
    ),
    unverified="columns key, long_key, mp3name, title, description and raw_audio/LONG_KEY/MP3NAME from code that reads "
    "the set (khdlr/SoundingEarth, mvrl/GeoCLAP), not from the files; the names of Zenodo's files are not known, so "
    "nothing is fetched",
)
_SPLITS = {"7": "validation", "2": "test", "5": "test"}


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`metadata.csv`; the sounds are `raw_audio/LONG_KEY/MP3NAME`."""
    path = need_file(raw.root / "metadata.csv", "SoundingEarth's table")
    for row in read_table(path, ["key", "long_key", "mp3name"]):
        if isinstance(row, BadSample):
            if split == "train":  # its split is not known, and it should come once
                yield row
        elif not row["key"].isdecimal() or not row["mp3name"]:
            if split == "train":
                yield BadSample(row.where, f"has key {row['key']!r} and mp3name {row['mp3name']!r}")
        elif _SPLITS.get(row["key"][-1], "train") == split:
            text = row.cells.get("description", "")
            clip = Clip(
                id=row["key"], audio="", captions=[text] if text else [], split=split, title=row.cells.get("title", ""),
                source=f"aporee:{row['long_key']}", dataset=CARD.name, licence=CARD.licence,
            )  # fmt: skip
            yield raw.audio.named(clip, f"raw_audio/{row['long_key']}/{row['mp3name']}")

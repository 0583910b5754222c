"""UrbanSound8K: 8 732 clips of at most 4 s, ten classes of city sounds, in ten folds."""

from collections.abc import Iterator
from pathlib import Path

from atr.datasets.corpus import Card, Download, Raw, find_file
from atr.datasets.tables import read_table
from atr.types import BadSample, Clip

CARD = Card(
    name="UrbanSound8K",
    homepage="https://urbansounddataset.weebly.com/urbansound8k.html",
    licence="CC BY-NC 3.0; each recording by its author (FREESOUNDCREDITS.txt)",
    splits=tuple(f"fold{number}" for number in range(1, 11)),
    captions="none: labels",
    citation="Salamon, Jacoby, Bello: A Dataset and Taxonomy for Urban Sound Research. ACM MM 2014, "
    "doi 10.1145/2647868.2655045",
    faults=(
        "report the mean over the ten folds as published: clips of one recording share a fold, shuffling them leaks",
        "`start` and `end` of the table are places in the recording on Freesound; the files are cut already",
        "about a third of the clips are in the background (`salience` 2 in the table; clips do not carry it)",
        "WavCaps and other sets from Freesound hold the same recordings: check with `atr leaks`",
    ),
    downloads=(
        Download(
            url="https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz",
            path="UrbanSound8K.tar.gz",
            size=6_023_741_708,
            checksum="md5:9aa69802bbf37fb986f71ec1483a196e",
            unpack=True,
        ),
    ),
)
_PLACES = ("metadata/UrbanSound8K.csv", "UrbanSound8K.csv", "UrbanSound8K/metadata/UrbanSound8K.csv")


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`metadata/UrbanSound8K.csv`, and the sounds in `audio/fold1` … or `fold1` …, of any format."""
    path = find_file(raw.root, _PLACES, "UrbanSound8K's table of all folds")
    for row in read_table(path, ["slice_file_name", "fsID", "fold", "class"]):
        if isinstance(row, BadSample):
            yield row
        elif f"fold{row['fold']}" not in CARD.splits:
            yield BadSample(row.where, f"is of fold {row['fold']!r}; there are 1 to 10")
        elif f"fold{row['fold']}" == split:
            name = row["slice_file_name"]
            clip = Clip(
                id=Path(name).stem, audio="", labels=[row["class"]], split=split, source=f"freesound:{row['fsID']}",
                dataset=CARD.name, licence=CARD.licence,
            )  # fmt: skip
            yield raw.audio.named(clip, f"audio/{split}/{name}")

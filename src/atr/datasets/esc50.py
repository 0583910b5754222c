"""ESC-50: 2 000 five-second clips of 50 classes in five folds."""

from collections.abc import Iterator
from pathlib import Path

from atr.datasets.corpus import Card, Download, Raw, find_file
from atr.datasets.tables import read_table
from atr.types import BadSample, Clip

CARD = Card(
    name="ESC-50",
    homepage="https://github.com/karolpiczak/ESC-50",
    licence="CC BY-NC 3.0; the clips of ESC-10 CC BY 3.0; each clip by its author (the publisher's LICENSE)",
    splits=("fold1", "fold2", "fold3", "fold4", "fold5"),
    captions="none: labels",
    citation="Piczak: ESC: Dataset for Environmental Sound Classification. ACM MM 2015, doi 10.1145/2733373.2806390",
    faults=(
        "many clips are shorter than 5 s and filled up with digital silence",
        "WavCaps and other sets from Freesound hold the same recordings: check with `atr leaks`",
    ),
    downloads=(
        Download(url="https://github.com/karolpiczak/ESC-50/archive/master.zip", path="ESC-50-master.zip", unpack=True),
    ),
)
_PLACES = ("meta/esc50.csv", "esc50.csv", "ESC-50-master/meta/esc50.csv")


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`meta/esc50.csv` and `audio/`; labels keep their underscores, as the publisher writes them."""
    path = find_file(raw.root, _PLACES, "ESC-50's table of all folds")
    for row in read_table(path, ["filename", "fold", "category", "src_file"]):
        if isinstance(row, BadSample):
            yield row
        elif f"fold{row['fold']}" not in CARD.splits:
            yield BadSample(row.where, f"is of fold {row['fold']!r}; there are 1 to 5")
        elif f"fold{row['fold']}" == split:
            name = row["filename"]
            clip = Clip(
                id=Path(name).stem, audio="", labels=[row["category"]], split=split,
                source=f"freesound:{row['src_file']}", dataset=CARD.name, licence=CARD.licence,
            )  # fmt: skip
            yield raw.audio.named(clip, f"audio/{name}")

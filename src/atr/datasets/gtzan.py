"""GTZAN: 1 000 pieces of music of 30 s, ten genres."""

import re
from collections.abc import Iterator

from atr.datasets.corpus import Card, Raw
from atr.datasets.path_tables import read_file_names, read_path_table
from atr.types import BadSample, Clip

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
CARD = Card(
    name="GTZAN",
    homepage="http://marsyas.info/downloads/datasets.html",
    licence="none stated",
    splits=("all",),
    captions="none: labels",
    citation="Tzanetakis, Cook: Musical genre classification of audio signals. IEEE TSAP 10(5), 2002, "
    "doi 10.1109/TSA.2002.800560",
    faults=(
        "repeats, wrong labels and distortions: Sturm, The GTZAN dataset: its contents, its faults, their effects on "
        "evaluation, and its future use, 2013, arXiv 1306.1461",
        "jazz.00054 cannot be decoded in the copy that most people have: 999 clips are then left",
        "the publisher's server does not answer any more, so no download is listed; copies differ",
    ),
)
TABLE = "GTZAN_test.csv"
_NAME = re.compile(rf"({'|'.join(GENRES)})\.\d{{5}}")


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`genres/blues/blues.00000.wav` …, or the rows of AudioSetCaps' `GTZAN_test.csv` where that is there."""
    like = Clip(id="", audio="", split=split, dataset=CARD.name, licence=CARD.licence)
    if (raw.root / TABLE).is_file():
        yield from read_path_table(raw, raw.root / TABLE, ("Audio Path", "Music Genre"), like, "gtzan")
    else:
        yield from read_file_names(raw, _genre, "blues.00000.wav", like, "gtzan")


def _genre(stem: str) -> str | None:
    match = _NAME.fullmatch(stem)
    return match[1] if match else None

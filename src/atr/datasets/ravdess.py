"""RAVDESS: two sentences spoken and sung by 24 actors in eight emotions; the sound-only files."""

import re
from collections.abc import Iterator

from atr.datasets.corpus import Card, Download, Raw
from atr.datasets.path_tables import read_file_names, read_path_table
from atr.types import BadSample, Clip

EMOTIONS = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad",
    "05": "angry", "06": "fearful", "07": "disgust", "08": "surprised",
}  # fmt: skip
CARD = Card(
    name="RAVDESS",
    homepage="https://zenodo.org/records/1188976",
    licence="CC BY-NC-SA 4.0",
    splits=("speech", "song"),
    captions="none: labels",
    citation="Livingstone, Russo: The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS). "
    "PLoS ONE 13(5), 2018, doi 10.1371/journal.pone.0196391",
    faults=(
        "song has no disgust and no surprise, and none by actor 18",
        "neutral has half as many clips as the others; there are two sentences only",
    ),
    downloads=(
        Download(
            url="https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip",
            path="speech/Audio_Speech_Actors_01-24.zip",
            checksum="md5:bc696df654c87fed845eb13823edef8a",
            size=208_468_073,
            unpack=True,
        ),
        Download(
            url="https://zenodo.org/records/1188976/files/Audio_Song_Actors_01-24.zip",
            path="song/Audio_Song_Actors_01-24.zip",
            checksum="md5:5411230427d67a21e18aa4d466e6d1b9",
            size=225_505_317,
            unpack=True,
        ),
    ),
)
TABLE = "RAVDESS_test.csv"
_NAME = re.compile(r"03-(?P<channel>0[12])-(?P<emotion>0[1-8])-0[12]-0[12]-0[12]-\d\d")
_CHANNELS = {"speech": "01", "song": "02"}


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`Actor_01/03-01-01-01-01-01-01.wav` …, or the rows of AudioSetCaps' `RAVDESS_test.csv` where that is there."""
    like = Clip(id="", audio="", split=split, dataset=CARD.name, licence=CARD.licence)
    if (raw.root / TABLE).is_file():
        found = read_path_table(raw, raw.root / TABLE, ("Audio Path", "Emotion"), like, "ravdess")
    else:
        found = read_file_names(raw, _emotion, "03-01-05-01-01-01-12.wav", like, "ravdess")
    for one in found:
        match = _NAME.fullmatch(one.id if isinstance(one, Clip) else one.key)
        if match is None and isinstance(one, Clip):
            yield BadSample(one.id, "is no name such as 03-01-05-01-01-01-12.wav, which tells speech from song")
        elif match is None or match["channel"] == _CHANNELS[split]:
            yield one


def _emotion(stem: str) -> str | None:
    match = _NAME.fullmatch(stem)
    return EMOTIONS[match["emotion"]] if match else None

"""CREMA-D: 7 442 spoken sentences by 91 actors, each in one of six emotions."""

import re
from collections.abc import Iterator

from atr.datasets.corpus import Card, Raw
from atr.datasets.path_tables import read_file_names, read_path_table
from atr.types import BadSample, Clip

EMOTIONS = {"ANG": "Anger", "DIS": "Disgust", "FEA": "Fear", "HAP": "Happy/Joy", "NEU": "Neutral", "SAD": "Sad"}
CARD = Card(
    name="CREMA-D",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    licence="Open Database License 1.0, contents under the Database Contents License 1.0",
    splits=("all",),
    captions="none: labels",
    citation="Cao, Cooper, Keutmann, Gur, Nenkova, Verma: CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset. "
    "IEEE Trans. Affective Computing 5(4), 2014, doi 10.1109/TAFFC.2014.2336244",
    faults=(
        "the label is the emotion that was acted, which listeners often do not hear",
        "1076_MTI_SAD_XX holds no sound, 1064_IEO_DIS_MD is a minute long with several emotions",
        "the sounds lie in Git LFS: a checkout without it holds text files that are called .wav",
    ),
)
TABLE = "CREMA-D_test.csv"
_NAME = re.compile(r"\d{4}_[A-Z]{3}_([A-Z]{3})_(LO|MD|HI|XX|X)")


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`AudioWAV/1001_DFA_ANG_XX.wav` …, or the rows of AudioSetCaps' `CREMA-D_test.csv` where that is there."""
    like = Clip(id="", audio="", split=split, dataset=CARD.name, licence=CARD.licence)
    if (raw.root / TABLE).is_file():
        yield from read_path_table(raw, raw.root / TABLE, ("Audio Path", "Emotion"), like, "crema-d")
    else:
        yield from read_file_names(raw, _emotion, "1001_DFA_ANG_XX.wav", like, "crema-d")


def _emotion(stem: str) -> str | None:
    match = _NAME.fullmatch(stem)
    return EMOTIONS.get(match[1]) if match else None

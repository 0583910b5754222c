"""CommonLanguage: an hour of speech in each of 45 languages, taken from Common Voice."""

from collections.abc import Iterator

from atr.datasets.corpus import Card, Download, MissingSplit, Raw, find_file
from atr.datasets.path_tables import read_path_table
from atr.types import BadSample, Clip

CARD = Card(
    name="CommonLanguage",
    homepage="https://zenodo.org/records/5036977",
    licence="CC BY 4.0; Common Voice itself is CC0",
    splits=("train", "validation", "test", "zero_shot"),
    captions="none: labels",
    citation="Sinisetty, Ruban, Dymov, Ravanelli: CommonLanguage. Zenodo 2021, doi 10.5281/zenodo.5036977",
    faults=(
        "`zero_shot` is AudioSetCaps' table: 978 clips of the test split in six languages, the Chinese ones pooled",
        "two folders, and so their labels, are misspelt by the publisher: Mangolian, Ukranian",
    ),
    downloads=(
        Download(
            url="https://zenodo.org/records/5036977/files/CommonLanguage.tar.gz",
            path="CommonLanguage.tar.gz",
            unpack=True,
        ),
    ),
)
TABLE = "CommonLanguage_test.csv"
_FOLDERS = {"train": "train", "validation": "dev", "test": "test"}


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`LANGUAGE/{train,dev,test}/SPEAKER/*.wav`, the label being the folder's name; or AudioSetCaps' table."""
    like = Clip(id="", audio="", split=split, dataset=CARD.name, licence=CARD.licence)
    if split == "zero_shot":
        table = find_file(raw.root, [TABLE], "AudioSetCaps' table")
        yield from read_path_table(raw, table, ("File Path", "Language"), like, "commonvoice")
        return
    paths = raw.audio.paths()
    if not paths:
        raise MissingSplit(f"no sound files below {raw.audio.folder}: the labels are the names of the folders")
    for path in paths:
        language, folder, _, _ = ("", "", "", "", *path.parts)[-4:]
        if folder not in _FOLDERS.values():
            yield BadSample(path.stem, f"{path} does not lie in LANGUAGE/train, dev or test/SPEAKER")
        elif folder == _FOLDERS[split]:
            yield Clip(
                id=path.stem, audio=str(path), labels=[language], split=split, source=f"commonvoice:{path.stem}",
                dataset=CARD.name, licence=CARD.licence,
            )  # fmt: skip

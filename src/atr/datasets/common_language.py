"""CommonLanguage: an hour of speech in each of 45 languages, taken from Common Voice."""

from collections.abc import Iterator
from pathlib import Path

from atr.datasets.corpus import Card, Download, MissingSplit, Raw, find_file
from atr.datasets.path_tables import read_path_table
from atr.datasets.tables import read_table
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
        "the languages' folders are named as the labels are, e.g. Chinese_Taiwan",
    ),
    unverified="the publisher's tables (UTF-16 with its mark, tabs, an unnamed first column): taken from the loading "
    "script of the corpus on Hugging Face; AudioSetCaps' table was read",
    downloads=(
        Download(
            url="https://zenodo.org/records/5036977/files/CommonLanguage.tar.gz",
            path="CommonLanguage.tar.gz",
            unpack=True,
        ),
    ),
)
TABLE = "CommonLanguage_test.csv"
_FILES = {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"}


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`LANGUAGE/{train,dev,test}.csv` with the sounds in `LANGUAGE/test/SPEAKER/`, or AudioSetCaps' table."""
    like = Clip(id="", audio="", split=split, dataset=CARD.name, licence=CARD.licence)
    if split == "zero_shot":
        table = find_file(raw.root, [TABLE], "AudioSetCaps' table")
        yield from read_path_table(raw, table, ("File Path", "Language"), like, "commonvoice")
        return
    tables = sorted(raw.root.glob(f"*/{_FILES[split]}")) or sorted(raw.root.glob(f"common_voice_kpd/*/{_FILES[split]}"))
    if not tables:
        raise MissingSplit(f"{raw.root} holds no LANGUAGE/{_FILES[split]}: CommonLanguage has a folder per language")
    for table in tables:
        yield from _read_language(raw, table, split)


def _read_language(raw: Raw, table: Path, split: str) -> Iterator[Clip | BadSample]:
    language = table.parent.name
    for row in read_table(table, ["client_id", "path"], delimiter="\t"):
        if isinstance(row, BadSample):
            yield row
        elif not row["path"]:
            yield BadSample(row.where, "has no path")
        else:
            name = Path(row["path"]).stem
            clip = Clip(
                id=name, audio="", labels=[language], split=split, source=f"commonvoice:{name}", dataset=CARD.name,
                licence=CARD.licence,
            )  # fmt: skip
            yield raw.audio.named(clip, f"{language}/{table.stem}/{row['client_id']}/{row['path']}")

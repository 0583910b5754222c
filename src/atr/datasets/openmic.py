"""OpenMIC-2018: 20 000 ten-second clips from the Free Music Archive with labels of 20 instruments."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from atr.datasets.corpus import Card, Download, Raw, find_file
from atr.datasets.path_tables import read_path_table
from atr.datasets.tables import Row, read_table
from atr.types import BadSample, Clip

CARD = Card(
    name="OpenMIC-2018",
    homepage="https://zenodo.org/records/1432913",
    licence="CC BY 4.0 for the set; each piece under its own Creative Commons licence",
    splits=("train", "test", "zero_shot"),
    captions="none: labels",
    citation="Humphrey, Durand, McFee: OpenMIC-2018: An Open Data-set for Multiple Instrument Recognition. ISMIR 2018",
    faults=(
        "labels are partial: an instrument that is not named may still be heard, also in `zero_shot`",
        "in train and test a clip may have no label: no instrument reached a relevance of 0.5",
        "`zero_shot` is AudioSetCaps' table, one instrument per clip, across both publisher's splits",
    ),
    unverified="the publisher's tables: taken from mirdata's three-row samples of them",
    downloads=(
        Download(
            url="https://zenodo.org/records/1432913/files/openmic-2018-v1.0.0.tgz",
            path="openmic-2018-v1.0.0.tgz",
            size=2_623_376_754,
            checksum="md5:e4ccf187e2bb5ab2e115416e8aafe7f4",
            unpack=True,
        ),
    ),
)
TABLE = "OpenMIC-2018_test.csv"
PRESENT = 0.5  # relevance from which on the publisher's own example counts an instrument as heard
_KEY = re.compile(r"(\d{6})_\d+")  # track in the Free Music Archive, first sample


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`partitions/split01_train.csv`, `…_test.csv` with the aggregated labels, or AudioSetCaps' table."""
    like = Clip(id="", audio="", split=split, dataset=CARD.name, licence=CARD.licence)
    if split == "zero_shot":
        table = find_file(raw.root, [TABLE], "AudioSetCaps' table of clips with one instrument")
        for one in read_path_table(raw, table, ("filepath", "instrument"), like, "fma"):
            yield one if isinstance(one, BadSample) else replace(one, source=_source(one.id))
        return
    keys = _find(raw.root, f"partitions/split01_{split}.csv")
    labels = _find(raw.root, "openmic-2018-aggregated-labels.csv")
    instruments: dict[str, list[str]] = {}
    for row in read_table(labels, ["sample_key", "instrument", "relevance"]):
        heard = row if isinstance(row, BadSample) else _heard(row)
        if isinstance(row, Row) and heard is True:
            instruments.setdefault(row["sample_key"], []).append(row["instrument"])
        elif isinstance(heard, BadSample):
            yield heard
    about = _read_about(raw.root)
    for row in read_table(keys, ["key"], header=["key"]):
        if isinstance(row, BadSample):
            yield row
        elif not _KEY.fullmatch(key := row["key"]):
            yield BadSample(row.where, f"{key!r} is no key such as 000046_3840")
        else:
            title, licence = about.get(key, ("", ""))
            clip = replace(
                like, id=key, labels=instruments.get(key, []), title=title, licence=licence or CARD.licence,
                source=_source(key),
            )  # fmt: skip
            yield raw.audio.named(clip, f"audio/{key[:3]}/{key}.ogg")


def _find(root: Path, name: str) -> Path:
    return find_file(root, [name, f"openmic-2018/{name}"], "one of the tables in openmic-2018-v1.0.0.tgz")


def _source(key: str) -> str:
    match = _KEY.fullmatch(key)
    return f"fma:{int(match[1])}" if match else f"fma:{key}"


def _heard(row: Row) -> bool | BadSample:
    try:
        return float(row["relevance"]) >= PRESENT
    except ValueError:
        return BadSample(row.where, f"relevance is {row['relevance']!r}; it is a number from 0 to 1")


def _read_about(root: Path) -> dict[str, tuple[str, str]]:
    """Key -> title and licence, where the publisher's metadata are there."""
    for folder in (root, root / "openmic-2018"):
        if (path := folder / "openmic-2018-metadata.csv").is_file():
            rows = read_table(path, ["sample_key", "track_title", "license_title"])
            return {
                row["sample_key"]: (row["track_title"], row["license_title"]) for row in rows if isinstance(row, Row)
            }
    return {}

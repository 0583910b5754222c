"""Clotho 2.1: Freesound clips of 15 to 30 s with five captions each."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from atr.datasets.corpus import Card, Download, Raw, need_file
from atr.datasets.tables import Row, read_table
from atr.shards.write import KEY_LENGTH, shard_key
from atr.types import BadSample, Clip

_CHECKSUMS = {  # of Zenodo record 4783391
    "clotho_audio_development.7z": "c8b05bc7acdb13895bb3c6a29608667e",
    "clotho_audio_evaluation.7z": "4569624ccadf96223f19cb59fe4f849f",
    "clotho_audio_validation.7z": "7dba730be08bada48bd15dc4e668df59",
    "clotho_captions_development.csv": "d4090b39ce9f2491908eebf4d5b09bae",
    "clotho_captions_evaluation.csv": "1b16b9e57cf7bdb7f13a13802aeb57e2",
    "clotho_captions_validation.csv": "5879e023032b22a2c930aaa0528bead4",
    "clotho_metadata_development.csv": "170d20935ecfdf161ce1bb154118cda5",
    "clotho_metadata_evaluation.csv": "13946f054d4e1bf48079813aac61bf77",
    "clotho_metadata_validation.csv": "2e010427c56b1ce6008b0f03f41048ce",
}
CARD = Card(
    name="Clotho",
    homepage="https://zenodo.org/records/4783391",
    licence="captions: Tampere University, non-commercial; each sound has its author's Creative Commons licence",
    splits=("train", "validation", "test"),
    captions="5",
    citation="Drossos, Lipping, Virtanen: Clotho: an Audio Captioning Dataset. ICASSP 2020, 736-740, arXiv:1910.09387",
    faults=(
        "four file names stand in two splits (train and validation 1, train and test 1, validation and test 2)",
        "file names differ in blanks and punctuation only (three pairs in train); the ids of such clips end in a hash",
        "some names in the metadata tables are spelt otherwise than in the caption tables; rows without a partner "
        "are named, and such clips have no source",
        "the publisher's text says 3840 and 1046 clips; the tables hold 3839 / 1045 / 1045",
    ),
    unverified="the metadata tables, after reference and the reader in the repository Labbeti/aac-datasets",
    downloads=tuple(
        Download(
            url=f"https://zenodo.org/records/4783391/files/{name}?download=1", path=name, checksum=f"md5:{checksum}",
            unpack=name.endswith(".7z"),
        )
        for name, checksum in _CHECKSUMS.items()
    ),
)  # fmt: skip
CAPTIONS = [f"caption_{number}" for number in range(1, 6)]
_PARTS = {"train": "development", "validation": "validation", "test": "evaluation"}
_ABOUT = ["file_name", "keywords", "sound_id", "license"]


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`clotho_captions_PART.csv`, and `clotho_metadata_PART.csv` where it is there.

    The sounds lie in a folder called `PART` or `clotho_audio_PART`, because a name may stand in two parts.
    """
    part = _PARTS[split]
    table = need_file(raw.root / f"clotho_captions_{part}.csv", "Clotho's captions of this split")
    rows: dict[str, Row] = {}
    for row in read_table(table, ["file_name", *CAPTIONS]):
        if isinstance(row, BadSample):
            yield row
        elif not row["file_name"] or not any(row[name] for name in CAPTIONS):
            yield BadSample(row.where, f"{row['file_name']!r} has no {'caption' if row['file_name'] else 'name'}")
        elif row["file_name"] in rows:
            yield BadSample(row.where, f"{row['file_name']!r} stands in {rows[row['file_name']].where}, too")
        else:
            rows[row["file_name"]] = row
    about: dict[str, Row] = {}
    if (metadata := raw.root / f"clotho_metadata_{part}.csv").is_file():
        about, lost = _metadata(metadata, rows)
        yield from lost
    ids = _ids(list(rows))
    for name, row in rows.items():
        clip = Clip(
            id=ids[name], audio="", captions=[row[one] for one in CAPTIONS if row[one]], split=split,
            title=Path(name).stem, dataset=CARD.name, licence=CARD.licence,
        )  # fmt: skip
        if name in about:
            clip = replace(
                clip,
                labels=[word.strip() for word in about[name]["keywords"].split(";") if word.strip()],
                source=f"freesound:{about[name]['sound_id']}" if about[name]["sound_id"].isdigit() else "",
                licence=about[name]["license"] or clip.licence,
            )
        yield _placed(raw, clip, name, part)


def _metadata(path: Path, names: dict[str, Row]) -> tuple[dict[str, Row], list[BadSample]]:
    """The rows by the caption table's names, and what has no partner (`clips=0`: no clip is lost with it)."""
    found: dict[str, Row] = {}
    lost, others = [], []
    for row in read_table(path, _ABOUT, encoding="latin-1"):
        if isinstance(row, BadSample):
            lost.append(replace(row, clips=0))
        elif row["file_name"] in names:
            found[row["file_name"]] = row
        else:
            others.append(row)
    alike: dict[str, list[str]] = {}
    for name in names:
        if name not in found:
            alike.setdefault(_letters(name), []).append(name)
    for row in others:
        partners = alike.get(_letters(row["file_name"]), [])
        if len(partners) == 1 and partners[0] not in found:
            found[partners[0]] = row
        else:
            lost.append(BadSample(row.where, f"{row['file_name']!r} is no name of the caption table", clips=0))
    lost.extend(
        BadSample(row.where, f"{name!r} has no row in {path.name}; its source stays empty", clips=0)
        for name, row in names.items()
        if name not in found
    )
    lost.extend(
        BadSample(row.where, f"{row['sound_id']!r} is no Freesound id; the clip's source stays empty", clips=0)
        for row in found.values()
        if not row["sound_id"].isdigit()
    )
    return found, lost


def _letters(name: str) -> str:
    """What is left of a name when another program has replaced its blanks and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _ids(names: list[str]) -> dict[str, str]:
    """The names without suffix; with a hash where a shard could not hold them, or could not tell them apart."""
    keys = Counter(shard_key(Path(name).stem) for name in names)
    ids = {}
    for name in names:
        stem = Path(name).stem
        fits = keys[shard_key(stem)] == 1 and len(shard_key(stem).encode()) <= KEY_LENGTH
        ids[name] = stem if fits else f"{stem[: KEY_LENGTH // 2]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return ids


def _placed(raw: Raw, clip: Clip, name: str, part: str) -> Clip | BadSample:
    inside = _folders(part)
    outside = [folder for other in _PARTS.values() if other != part for folder in _folders(other)]
    placed = raw.audio.named(clip, name, inside, outside)
    if isinstance(placed, BadSample):  # three names begin with a blank, which a table's cell does not keep
        again = raw.audio.named(clip, f" {name}", inside, outside)
        return placed if isinstance(again, BadSample) else again
    return placed


def _folders(part: str) -> list[str]:
    return [part, f"clotho_audio_{part}"]

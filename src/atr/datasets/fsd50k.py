"""FSD50K: 51 197 clips from Freesound of 0.3 to 30 s with labels of 200 classes of AudioSet's ontology."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atr.datasets.corpus import Card, Download, Raw, need_file
from atr.datasets.tables import read_table
from atr.errors import DataError
from atr.types import BadSample, Clip

_ARCHIVES = {  # size in bytes, md5
    "ground_truth.zip": (334_701, "ca27382c195e37d2269c4c866dd73485"),
    "metadata.zip": (6_700_838, "b9ea0c829a411c1d42adb9da539ed237"),
    "dev_audio.zip": (2_306_663_327, "c480d119b8f7a7e32fdb58f3ea4d6c5a"),
    "dev_audio.z01": (3_221_225_472, "faa7cf4cc076fc34a44a479a5ed862a3"),
    "dev_audio.z02": (3_221_225_472, "8f9b66153e68571164fb1315d00bc7bc"),
    "dev_audio.z03": (3_221_225_472, "1196ef47d267a993d30fa98af54b7159"),
    "dev_audio.z04": (3_221_225_472, "d088ac4e11ba53daf9f7574c11cccac9"),
    "dev_audio.z05": (3_221_225_472, "81356521aa159accd3c35de22da28c7f"),
    "eval_audio.zip": (3_037_675_767, "6fa47636c3a3ad5c7dfeba99f2637982"),
    "eval_audio.z01": (3_221_225_472, "3090670eaeecc013ca1ff84fe4442aeb"),
}
CARD = Card(
    name="FSD50K",
    homepage="https://zenodo.org/records/4060432",
    licence="CC BY 4.0 for the set; each clip is CC0, CC BY, CC BY-NC or Sampling+ by its author",
    splits=("train", "validation", "test"),
    captions="none: labels",
    citation="Fonseca, Favory, Pons, Font, Serra: FSD50K: An Open Dataset of Human-Labeled Sound Events. "
    "IEEE/ACM TASLP 30, 2022, arXiv 2010.00475",
    faults=(
        "the sounds come as zip archives in several parts, which `zip -s 0 FSD50K.dev_audio.zip --out dev.zip` joins",
        "labels carry those of the classes above them; development labels are less complete than evaluation labels",
        "Clotho and WavCaps hold the same recordings: check with `atr leaks`",
    ),
    unverified="the layout: taken from the description on Zenodo and from soundata's reader",
    downloads=tuple(
        Download(
            url=f"https://zenodo.org/records/4060432/files/FSD50K.{name}", path=f"FSD50K.{name}",
            size=size, checksum=f"md5:{md5}", unpack="audio" not in name,
        )
        for name, (size, md5) in _ARCHIVES.items()
    ),
)  # fmt: skip
_PARTS = {"train": ("dev", "train"), "validation": ("dev", "val"), "test": ("eval", "")}


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`FSD50K.ground_truth/dev.csv` and `eval.csv`; titles and licences where `FSD50K.metadata/` is there.

    Raises:
        MissingSplit: the table is not there.
        DataError: the json of titles and licences is damaged.
    """
    part, mark = _PARTS[split]
    path = need_file(raw.root / "FSD50K.ground_truth" / f"{part}.csv", "FSD50K's table, from FSD50K.ground_truth.zip")
    about = _read_about(raw.root / "FSD50K.metadata" / f"{part}_clips_info_FSD50K.json")
    for row in read_table(path, ["fname", "labels", *(["split"] if mark else [])]):
        if isinstance(row, BadSample):
            yield row
        elif mark and row["split"] not in ("train", "val"):
            yield BadSample(row.where, f"is of the split {row['split']!r}; there are train and val")
        elif not row["labels"]:
            yield BadSample(row.where, "has no label")
        elif not mark or row["split"] == mark:
            name = row["fname"]
            known = about.get(name, {})
            clip = Clip(
                id=name, audio="", labels=row["labels"].split(","), split=split, title=str(known.get("title", "")),
                source=f"freesound:{name}", dataset=CARD.name, licence=str(known.get("license", "")) or CARD.licence,
            )  # fmt: skip
            yield raw.audio.named(clip, f"FSD50K.{part}_audio/{name}.wav")


def _read_about(path: Path) -> dict[str, dict[str, Any]]:
    """Freesound id -> title, license and more; nothing where the file is not there."""
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path}: is no JSON ({error}); unpack FSD50K.metadata.zip again, or remove the file"
        ) from error
    if not isinstance(about, dict) or not all(isinstance(one, dict) for one in about.values()):
        raise DataError(f"{path}: is no object of objects by Freesound id; unpack FSD50K.metadata.zip again")
    return about

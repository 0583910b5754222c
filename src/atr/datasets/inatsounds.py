"""iNatSounds 2024: recordings of 5569 species from iNaturalist, with COCO-like lists."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from atr.datasets.corpus import Card, Download, Raw, need_file
from atr.errors import DataError
from atr.types import BadSample, Clip

_FILES = "https://ml-inat-competition-datasets.s3.amazonaws.com/sounds/2024"
_MD5 = {
    "train.json": "d0ae17ef52078194d450a83b5efe68a4", "val.json": "8e6e4b9628d43e36f1fea4621945403a",
    "test.json": "5482f112f05db4ba8576ba425d95d6a7", "train": "181c5419220c8a9468a12b8c938469ec",
    "val": "828e4cf96e818228cb3536469cb3fb1c", "test": "082a2e96ca34f6c9f61767e33cbf3626",
}  # fmt: skip
CARD = Card(
    name="iNatSounds 2024",
    homepage="https://github.com/visipedia/inat_sounds/tree/main/2024",
    licence="each recording its own (Clip.licence); the set for non-commercial research and education only",
    splits=("train", "validation", "test"),
    captions="none; the label is the species' common name, else its scientific one, which is the title",
    citation="Chasmai, Shepard, Maji, Van Horn: The iNaturalist Sounds Dataset. NeurIPS 2024 Datasets and Benchmarks",
    faults=(
        "one species is annotated per recording; others may be heard",
        "validation and test have 1212 of the 5569 species of train; 22.05 kHz; train 81 GB, validation 25, test 27",
    ),
    unverified="layout, sizes and MD5 from the publisher's README (visipedia/inat_sounds), not from the files; "
    "assumed: file_name is the path below the folder that the archives are unpacked in",
    downloads=tuple(
        Download(url=f"{_FILES}/{name}.tar.gz", path=f"{name}.tar.gz", checksum=f"md5:{md5}", unpack=True)
        for name, md5 in _MD5.items()
    ),
)
_LISTS = {"train": "train.json", "validation": "val.json", "test": "test.json"}


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`train.json`, `val.json`, `test.json`: `audio`, `annotations`, `categories`, `licenses`."""
    path = need_file(raw.root / _LISTS[split], "the annotations of this split, unpacked")
    content = _content(path)
    categories = {one.get("id"): one for one in content["categories"]}
    licences = {one.get("id"): str(one.get("name") or one.get("url") or "") for one in content.get("licenses", [])}
    species = {one.get("audio_id"): one.get("category_id") for one in content["annotations"]}
    for number, audio in enumerate(content["audio"]):
        where, file = f"{path}: audio[{number}]", audio.get("file_name")
        category = categories.get(species.get(audio.get("id")))
        if not isinstance(file, str) or not file:
            yield BadSample(where, "has no file_name")
        elif category is None:
            yield BadSample(where, f"{file} has no annotation with a category of the list")
        else:
            name = str(category.get("name", ""))
            clip = Clip(
                id=PurePosixPath(file).with_suffix("").as_posix(), audio="", split=split, title=name,
                labels=[str(category.get("common_name") or name)], duration=audio.get("duration"),
                source=f"inatsounds:{audio.get('id')}", dataset=CARD.name,
                licence=licences.get(audio.get("license"), ""),
            )  # fmt: skip
            yield raw.audio.named(clip, file)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error})") from error
    for name in ("audio", "annotations", "categories"):
        listed = content.get(name) if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise DataError(f"{path}: has no list {name!r} of objects, as iNatSounds has")
    return content

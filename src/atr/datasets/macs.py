"""MACS: TAU Urban Acoustic Scenes 2019 with captions and tags by several people."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from atr.datasets.corpus import Card, Download, Raw, need_file
from atr.errors import DataError
from atr.types import BadSample, Clip

_MACS = "https://zenodo.org/records/5114771/files"
_TAU = "https://zenodo.org/records/2589280/files/TAU-urban-acoustic-scenes-2019-development.audio"
_SOUNDS = {  # the archives that hold the three scenes of MACS
    1: "aca4ebfd9ed03d5f747d6ba8c24bc728", 2: "c4f170408ce77c8c70c532bf268d7be0", 3: "c7214a07211f10f3250290d05e72c37e",
    9: "3c32a693a6b111ffb957be3c1dd22e9b", 10: "0ffbf60006da520cc761fb74c878b98b",
    11: "599055d93b4c11057c29be2df54538d4", 12: "98b8d162ff3665695c4c910e6c372cc8",
    13: "a356c08b1a5a21d433eba37ef87587f4",
}  # fmt: skip
CARD = Card(
    name="MACS",
    homepage="https://zenodo.org/records/5114771",
    licence="Tampere University, non-commercial: captions and sound (TAU Urban Acoustic Scenes 2019)",
    splits=("train",),
    captions="2 to 5",
    citation="Martín Morató, Mesaros: Diversity and Bias in Audio Captioning Datasets. DCASE 2021, "
    "DOI 10.5281/zenodo.5770113",
    faults=(
        "it has no splits; all of it is `train`",
        "the clips of a scene, city and location are stretches of few recordings, so a split of it leaks",
        "the annotators' competence (MACS_competence.csv) is not read",
    ),
    unverified="the key `files` and the fields, after the reader in the repository Labbeti/aac-datasets",
    downloads=(
        Download(
            url=f"{_MACS}/MACS.yaml?download=1", path="MACS.yaml", checksum="md5:23fcb2ebd0b109094034ef9e87972256"
        ),
        *(
            Download(url=f"{_TAU}.{n}.zip?download=1", path=f"audio.{n}.zip", checksum=f"md5:{md5}", unpack=True)
            for n, md5 in _SOUNDS.items()
        ),
    ),
)
_NAME = re.compile(r"([a-z_]+-[a-z]+-\d+-\d+)-[a-z0-9]+\.wav")  # scene-city-location-segment-device


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """`MACS.yaml`; the labels are the tags of all annotators, each once."""
    path = need_file(raw.root / "MACS.yaml", "MACS' captions")
    seen = set()
    for number, entry in enumerate(_entries(path)):
        where = f"{path}: entry {number}"
        try:
            name, captions, tags = _fields(entry)
        except (KeyError, TypeError, AttributeError):
            yield BadSample(where, "has not the form {filename, annotations: [{annotator_id, sentence, tags: [...]}]}")
            continue
        match = _NAME.fullmatch(name)
        if not match:
            yield BadSample(where, f"{name!r} is no name of TAU 2019, such as park-london-5-200-a.wav")
        elif name in seen:
            yield BadSample(where, f"{name!r} came before")
        elif not captions:
            yield BadSample(where, f"{name!r} has no caption")
        else:
            seen.add(name)
            clip = Clip(
                id=Path(name).stem, audio="", captions=captions, labels=tags, split=split, source=f"tau2019:{match[1]}",
                dataset=CARD.name, licence=CARD.licence,
            )  # fmt: skip
            yield raw.audio.named(clip, name)


def _entries(path: Path) -> list[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built
    try:
        content = yaml.load(path.read_bytes(), Loader=loader)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: is no YAML ({reason})") from error
    entries = content.get("files") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise DataError(f"{path}: has no list `files`; is it the publisher's MACS.yaml?")
    return entries


def _fields(entry: Any) -> tuple[str, list[str], list[str]]:
    """File name, captions, tags."""
    notes = entry["annotations"]
    captions = [note["sentence"].strip() for note in notes]
    tags = dict.fromkeys(tag.strip() for note in notes for tag in note.get("tags") or [])
    return entry["filename"].strip(), [caption for caption in captions if caption], list(tags)

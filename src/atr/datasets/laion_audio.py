"""LAION-Audio-630K as LAION's preprocessing leaves it: folders of `N.flac` with `N.json`.

Its webdataset shards need no preparation: name them in `data.train`, and look at them with `atr check`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from atr.datasets.corpus import Card, MissingSplit, Raw
from atr.datasets.manifest import from_metadata
from atr.errors import DataError
from atr.shards.scan import AUDIO_SUFFIXES
from atr.types import BadSample, Clip

CARD = Card(
    name="LAION-Audio-630K",
    homepage="https://github.com/LAION-AI/audio-dataset/tree/main/laion-audio-630k",
    licence="research only; each sound by the terms of its site (Freesound, BBC, Epidemic Sound, Audiostock, ...)",
    splits=("train", "valid", "test"),
    captions="1 to 2",
    citation="Wu, Chen, Zhang, Hui, Berg-Kirkpatrick, Dubnov: Large-Scale Contrastive Language-Audio Pretraining with "
    "Feature Fusion and Keyword-to-Caption Augmentation. ICASSP 2023, arXiv:2211.06687",
    faults=(
        "webdataset shards ({dataset}/{split}/N.tar with sizes.json) are trained on as they are, not prepared",
        "the sounds are not published; the publisher's tables name where they are to be fetched",
        "the full Freesound part holds clips of ESC-50, FSD50K, UrbanSound8K and Clotho; take the one without overlap",
        "many captions are file names or made from tags",
        "only Freesound's clips have a source, from original_data.id; for the others it is empty",
    ),
    unverified="the folders, after data_preprocess/README.md and data_card/freesound.md of LAION-AI/audio-dataset; "
    "no real folder was read",
)


def splits(raw: Raw) -> list[str]:
    """The folders `DATASET/SPLIT` below the root that there are, by the name of the split."""
    return sorted({folder.name for folder in raw.root.glob("*/*") if folder.is_dir()})


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """All datasets' folders of this split; the ids are `DATASET_N`. The sounds are those beside the json files."""
    folders = sorted(folder for folder in raw.root.glob(f"*/{split}") if folder.is_dir())
    if not folders:
        raise MissingSplit(f"{raw.root}: holds no folder DATASET/{split}")
    for folder in folders:
        names: dict[str, list[Path]] = {}
        for path in folder.iterdir():
            names.setdefault(path.stem, []).append(path)
        if not any(path.suffix == ".json" and path.name != "sizes.json" for one in names.values() for path in one):
            if any(path.suffix == ".tar" for one in names.values() for path in one):
                raise DataError(
                    f"{folder}: holds shards, which need no preparation; name it in data.train, and see `atr check`"
                )
            raise DataError(f"{folder}: holds no pairs N.flac and N.json")
        for name in sorted(names, key=_natural):
            yield from _pair(folder, name, names[name], split)


def _natural(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else -1, name)


def _pair(folder: Path, name: str, paths: list[Path], split: str) -> Iterator[Clip | BadSample]:
    sounds = [path for path in paths if path.suffix[1:].lower() in AUDIO_SUFFIXES]
    jsons = [path for path in paths if path.suffix == ".json" and path.name != "sizes.json"]
    where = str(folder / name)
    if not sounds and not jsons:
        return
    if len(sounds) != 1 or not jsons:
        missing = "no json" if sounds else "no sound"
        yield BadSample(where, f"stands for {len(sounds)} sounds; keep one" if len(sounds) > 1 else f"has {missing}")
        return
    try:
        yield _clip(jsons[0], sounds[0], folder.parent.name, split)
    except DataError as error:
        yield BadSample(where, str(error))


def _clip(path: Path, sound: Path, dataset: str, split: str) -> Clip | BadSample:
    try:
        fields = json.loads(path.read_bytes())
        json.dumps(fields, ensure_ascii=False).encode()  # an escape may give half a character
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is no JSON ({error})") from error
    if not isinstance(fields, dict):
        raise DataError(f"{path.name} is a {type(fields).__name__}, not an object with text and tag")
    clip = from_metadata({name: fields[name] for name in ("text", "tag") if name in fields}, path.name)
    captions = [text.strip() for text in clip.captions if text.strip()]
    if not captions:
        raise DataError(f"{path.name} has no text")
    original = fields.get("original_data")
    original = original if isinstance(original, dict) else {}
    return replace(
        clip, id=f"{dataset}_{path.stem}", audio=str(sound), captions=captions, split=split,
        title=original["title"] if isinstance(original.get("title"), str) else "", source=_source(dataset, original),
        dataset=CARD.name, licence=_licence(original),
    )  # fmt: skip


def _source(dataset: str, original: dict[str, Any]) -> str:
    name = str(original.get("id", ""))
    return f"freesound:{name}" if "freesound" in dataset.lower() and re.fullmatch(r"\d+", name) else ""


def _licence(original: dict[str, Any]) -> str:
    licence = original.get("license")
    return licence if isinstance(licence, str) and licence else CARD.licence

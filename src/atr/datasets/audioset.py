"""AudioSet: ten-second stretches of YouTube videos with labels from an ontology of 632 classes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from atr.datasets.corpus import Card, Download, MissingSplit, Raw, need_file
from atr.datasets.tables import Row, read_table, seconds, youtube_id
from atr.errors import DataError
from atr.types import BadSample, Clip

_TABLES = "http://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"
_FILES = {
    "balanced_train": "balanced_train_segments.csv",
    "unbalanced_train": "unbalanced_train_segments.csv",
    "evaluation": "eval_segments.csv",
    "environment": "eval_segments.csv",
}
_NAMES = "class_labels_indices.csv"
_ONTOLOGY = "ontology.json"
ENVIRONMENT = "Acoustic environment"
CARD = Card(
    name="AudioSet",
    homepage="https://research.google.com/audioset/",
    licence="labels CC BY 4.0, ontology CC BY-SA 4.0; the sound belongs to the videos' authors",
    splits=tuple(_FILES),
    captions="none: labels",
    citation="Gemmeke, Ellis, Freedman, Jansen, Lawrence, Moore, Plakal, Ritter: Audio Set: An ontology and "
    "human-labeled dataset for audio events. ICASSP 2017, doi 10.1109/ICASSP.2017.7952261",
    faults=(
        "videos vanish: say how many clips of a split you had",
        "labels are incomplete, and for some classes often wrong: the publisher's qa_true_counts.csv has figures",
        "`environment` is this project's reading of a set that papers name and do not define: the evaluation clips "
        "with a label below 'Acoustic environment', Reverberation and Echo included, the labels cut down to those",
    ),
    downloads=(
        *(Download(url=f"{_TABLES}/{name}", path=name) for name in dict.fromkeys(_FILES.values())),
        Download(url=f"{_TABLES}/{_NAMES}", path=_NAMES),
        Download(url="https://raw.githubusercontent.com/audioset/ontology/master/ontology.json", path=_ONTOLOGY),
    ),
)
_HEADER = ("YTID", "start_seconds", "end_seconds", "positive_labels")


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """A clip per row of the split's `…_segments.csv`; labels are the display names.

    The split `environment` is the evaluation clips with a label below "Acoustic environment", and those labels only.
    """
    path = need_file(raw.root / _FILES[split], "AudioSet's table of this split")
    names = _display_names(raw.root)
    kept = None
    if split == "environment":
        ontology = read_ontology(need_file(raw.root / _ONTOLOGY, "AudioSet's ontology, which tells the environments"))
        kept = set(descendants(ontology, ENVIRONMENT))
    for row in read_table(path, _HEADER, header=_HEADER, comment="#", skip_blanks=True):
        clip = row if isinstance(row, BadSample) else _clip(row, names, split)
        if isinstance(clip, Clip) and kept is not None:
            clip = replace(clip, labels=[label for label in clip.labels if label in kept])
            if not clip.labels:
                continue
        if isinstance(clip, Clip):
            video = clip.source.removeprefix("youtube:")
            yield raw.audio.video(replace(clip, start=None, end=None), video, clip.start, clip.end)
        else:
            yield clip


def read_ontology(path: Path) -> list[dict[str, Any]]:
    """The nodes of `ontology.json`, each with `id`, `name` and `child_ids`.

    Raises:
        DataError: it is something else.
    """
    try:
        nodes = json.loads(path.read_text(encoding="utf-8"))
        for node in nodes:
            node["id"], node["name"], node["child_ids"]
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise DataError(
            f"{path}: is no AudioSet ontology, a list of objects with id, name and child_ids ({error!r})"
        ) from error
    return nodes


def descendants(ontology: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The names of all nodes below the one called `name`, from top to bottom, each once.

    >>> tree = [{"id": "1", "name": "Dog", "child_ids": ["2"]}, {"id": "2", "name": "Bark", "child_ids": []}]
    >>> descendants(tree, "Dog")
    ['Bark']

    Raises:
        DataError: no node has that name.
    """
    nodes = {node["id"]: node for node in ontology}
    open_ids = [child for node in ontology if node["name"] == name for child in node["child_ids"]]
    if not any(node["name"] == name for node in ontology):
        raise DataError(f"the ontology has no node {name!r}; names are written as in ontology.json")
    found: dict[str, str] = {}
    while open_ids:
        node = nodes.get(one := open_ids.pop(0))
        if node is not None and one not in found:
            found[one] = node["name"]
            open_ids.extend(node["child_ids"])
    return list(found.values())


def _clip(row: Row, names: Mapping[str, str], split: str) -> Clip | BadSample:
    """The row's clip without its file; `start` and `end` are the row's."""
    video = youtube_id(row["YTID"])
    start, end = seconds(row["start_seconds"], row.where), seconds(row["end_seconds"], row.where)
    if video is None:
        return BadSample(row.where, f"{row['YTID']!r} is no YouTube id")
    if isinstance(start, BadSample):
        return start
    if isinstance(end, BadSample):
        return end
    if end <= start:
        return BadSample(row.where, f"ends at {end:g} s, before it starts at {start:g} s")
    mids = [mid.strip() for mid in row["positive_labels"].split(",") if mid.strip()]
    if unknown := [mid for mid in mids if mid not in names]:
        return BadSample(row.where, f"label {unknown[0]!r} stands neither in {_ONTOLOGY} nor in {_NAMES}")
    if not mids:
        return BadSample(row.where, "has no label")
    return Clip(
        id=f"{video}_{start:g}", audio="", labels=[names[mid] for mid in mids], split=split, start=start, end=end,
        source=f"youtube:{video}", dataset=CARD.name, licence=CARD.licence,
    )  # fmt: skip


def _display_names(root: Path) -> dict[str, str]:
    """mid -> display name, from the ontology or from the list of the 527 classes."""
    if (root / _ONTOLOGY).is_file():
        return {node["id"]: node["name"] for node in read_ontology(root / _ONTOLOGY)}
    if not (root / _NAMES).is_file():
        raise MissingSplit(f"{root} holds neither {_ONTOLOGY} nor {_NAMES}: one of them names the labels")
    rows = read_table(root / _NAMES, ["mid", "display_name"])
    return {row["mid"]: row["display_name"] for row in rows if isinstance(row, Row)}

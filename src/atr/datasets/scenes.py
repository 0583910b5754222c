"""What the sets of TAU Urban Acoustic Scenes have in common: tab-separated tables of file and scene."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from atr.datasets.corpus import Card, Download, Raw, find_file
from atr.datasets.tables import read_table
from atr.types import BadSample, Clip

_TABLES = {"train": "fold1_train.csv", "test": "fold1_evaluate.csv"}


def zenodo_files(record: int, stem: str, parts: dict[str, tuple[int, str]]) -> tuple[Download, ...]:
    """The archives `stem.PART.zip` of a Zenodo record; `parts` has size (bytes) and md5 of each."""
    return tuple(
        Download(
            url=f"https://zenodo.org/records/{record}/files/{stem}.{part}.zip", path=f"{stem}.{part}.zip",
            size=size, checksum=f"md5:{md5}", unpack=True,
        )
        for part, (size, md5) in parts.items()
    )  # fmt: skip


def read_scenes(raw: Raw, split: str, card: Card, site: str, folder: str) -> Iterator[Clip | BadSample]:
    """The clips of `evaluation_setup/fold1_train.csv` or `fold1_evaluate.csv`.

    Args:
        raw: the publisher's files.
        split: `train` or `test`.
        card: the corpus's.
        site: before the colon in `source`; behind it stands the name without the device, because the devices
            recorded at the same time.
        folder: that the publisher's archives unpack into.
    """
    name = _TABLES[split]
    places = [f"evaluation_setup/{name}", f"{folder}/evaluation_setup/{name}", name]
    path = find_file(raw.root, places, f"{card.name}'s table of this split, from the archive `meta`")
    for row in read_table(path, ["filename", "scene_label"], delimiter="\t"):
        if isinstance(row, BadSample):
            yield row
            continue
        stem = PurePosixPath(row["filename"]).stem
        if len(parts := stem.split("-")) != 5:
            yield BadSample(row.where, f"{row['filename']!r} is no name as scene-city-location-segment-device.wav")
        elif not row["scene_label"]:
            yield BadSample(row.where, "has no scene_label")
        else:
            clip = Clip(
                id=stem, audio="", labels=[row["scene_label"]], split=split, source=f"{site}:{'-'.join(parts[:4])}",
                dataset=card.name, licence=card.licence,
            )  # fmt: skip
            yield raw.audio.named(clip, row["filename"])

"""BirdSet: recordings of birds (xeno-canto) and annotated soundscapes, a table per subset on the Hugging Face hub."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from atr.datasets.corpus import Card, MissingSplit, Raw
from atr.datasets.parquet import parquet_rows
from atr.datasets.tables import seconds
from atr.types import BadSample, Clip

CARD = Card(
    name="BirdSet",
    homepage="https://huggingface.co/datasets/DBD-research-group/BirdSet",
    licence="each recording its own (Clip.licence); Creative Commons",
    splits=("HSN_train", "HSN_test", "HSN_test_5s"),
    captions="none; the labels are eBird codes",
    citation="Rauch et al.: BirdSet: A Large-Scale Dataset for Audio Classification in Avian Bioacoustics. ICLR 2025, "
    "arXiv 2403.10380",
    faults=(
        "splits are SUBSET_train, SUBSET_test and SUBSET_test_5s of the subsets that are there: PER, NES, UHH, HSN, "
        "NBP, POW, SSW, SNE, and XCM and XCL, which have a train only",
        "a row of a test is one annotated call, from start to end; stretches of several species come as several rows",
        "clips of test_5s without a bird have no label",
    ),
    unverified="SUBSET_metadata_*.parquet and its columns from the publisher's loading script; the archives "
    "SUBSET_*_shard_*.tar.gz have to be fetched and unpacked by hand, of the subsets that are wanted",
)
_TABLE = re.compile(r"(?P<subset>[A-Z]{3})_metadata(_(?P<part>train|test_5s|test))?")


def splits(raw: Raw) -> tuple[str, ...]:
    """`SUBSET_PART` of the tables that are there."""
    return tuple(_tables(raw.root))


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """A row of `SUBSET_metadata_PART.parquet` -> a recording, an annotated stretch of one, or five seconds."""
    tables = _tables(raw.root)
    if split not in tables:
        raise MissingSplit(f"{raw.root}: has no table of {split}; those that are there: {', '.join(tables) or 'none'}")
    part = split[4:]
    for where, row in parquet_rows(tables[split]):
        clip = _clip(where, row, split, part)
        yield clip if isinstance(clip, BadSample) else raw.audio.named(clip, clip.audio)


def _tables(root: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(root.rglob("*_metadata*.parquet")):
        if match := _TABLE.fullmatch(path.stem):
            found[f"{match['subset']}_{match['part'] or 'train'}"] = path
    return found


def _clip(where: str, row: Mapping[str, Any], split: str, part: str) -> Clip | BadSample:
    file = row.get("filepath")
    if not isinstance(file, str) or not file:
        return BadSample(where, "has no filepath")
    stem = PurePosixPath(file).stem
    many, one = row.get("ebird_code_multilabel"), row.get("ebird_code")
    labels = [str(code) for code in (many or [])] if part == "test_5s" else [str(one)] if one is not None else []
    start = end = None
    name = f"{split[:3]}/{stem}"
    if part == "test":
        times = [seconds(str(row.get(name)), where) for name in ("start_time", "end_time")]
        if wrong := next((time for time in times if isinstance(time, BadSample)), None):
            return wrong
        start, end = (time for time in times if isinstance(time, float))
        if end <= start:
            return BadSample(where, f"ends at {end:g} s, which is not after its start, {start:g} s")
        name = f"{name}_{start:g}_{end:g}"
    xeno_canto = re.fullmatch(r"XC(\d+)", stem)
    return Clip(
        id=name, audio=PurePosixPath(file).name, labels=labels, split=split, start=start, end=end,
        source=f"xeno-canto:{xeno_canto[1]}" if xeno_canto else f"birdset:{stem}", dataset=CARD.name,
        licence=str(row.get("license") or ""),
    )  # fmt: skip

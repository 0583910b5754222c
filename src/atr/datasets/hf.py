"""A data set of the Hugging Face hub on disk: what `datasets.save_to_disk` wrote, or parquet files of a snapshot.

Arrow and parquet files are read with pyarrow; the package `datasets` is not needed. Sounds that lie inside them are
written as files, byte for byte.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from atr.datasets.corpus import Card, Raw
from atr.datasets.own import ALL, Columns, Record, clip_of
from atr.datasets.parquet import ROWS, need_pyarrow, parquet_rows
from atr.errors import DataError, UsageError
from atr.types import BadSample, Clip

CARD = Card(
    name="Hugging Face data set",
    homepage="https://huggingface.co/docs/datasets",
    licence="see the data set's card",
    splits=(ALL,),
    captions="as many as the cell of captions holds",
    citation="",
    faults=(
        "sounds inside the tables are written to .atr_audio in the folder, or below --audio-dir",
        "labels are the names of the classes where the data set has them",
    ),
)
INSIDE = ".atr_audio"  # the folder of the sounds that were inside
_SHARD = re.compile(r"(?P<split>\w+?)(-\d+-of-\d+)?")
_MAGIC = ((b"RIFF", "wav"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mp3"), (b"\xff", "mp3"))


def splits(raw: Raw) -> tuple[str, ...]:
    """The splits of the data set."""
    return tuple(_files(raw.root))


def read(raw: Raw, split: str) -> Iterator[Clip | BadSample]:
    """The rows of a split. The column of the sounds is `audio` or the one given; without an `id`, that of the sound.

    Raises:
        DataError: the folder is no data set, or a file is damaged.
        UsageError: pyarrow is not installed, or the sounds cannot be written.
    """
    files = _files(raw.root)
    if split not in files:
        raise UsageError(f"{raw.root}: has no split {split!r}; there are: {', '.join(files)}")
    columns, classes = Columns(raw.columns, raw.root), _classes(files[split][0])
    columns.check(_schema(files[split][0]).names)
    rows = (
        row for file in files[split] for row in (_arrow_rows(file) if file.suffix == ".arrow" else parquet_rows(file))
    )
    for number, (where, row) in enumerate(rows):
        row = {name: _named(value, classes[name]) if name in classes else value for name, value in row.items()}
        yield _clip(raw, (where, row), columns, split, number)


def _clip(raw: Raw, row: Record, columns: Columns, split: str, number: int) -> Clip | BadSample:
    sound = next(iter(columns.values(row[1], "audio")), None)
    if not isinstance(sound, dict):
        clip = clip_of(row, columns, split, raw.audio.folder)
        return clip if isinstance(clip, BadSample) else raw.audio.named(clip, clip.audio)
    content, path = sound.get("bytes"), str(sound.get("path") or "")
    name = path or f"{split}-{number:08d}"
    audio = {column: name for column in columns.names.get("audio", ["audio"])}
    clip = clip_of((row[0], {**row[1], **audio}), columns, split, raw.audio.folder)
    if isinstance(clip, BadSample) or not content:
        return clip if isinstance(clip, BadSample) else raw.audio.named(clip, clip.audio)
    if raw.audio.folder is None:
        return clip
    folder = raw.root / INSIDE if raw.audio.folder == raw.root else raw.audio.folder
    digest = hashlib.sha256(content).hexdigest()[:16]
    return replace(
        clip, audio=str(_written(folder / split / f"{number:08d}-{digest}.{_suffix(path, content)}", content))
    )


def _written(file: Path, content: bytes) -> Path:
    """Writes the sound unless it is there already; its name tells its content."""
    if file.is_file():
        return file
    temporary = file.with_name(f".{uuid.uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{file.parent}: the sounds inside the data set cannot be written there ({error.strerror or error}); "
            "name a folder for them with --audio-dir"
        ) from error
    return file


def _suffix(path: str, content: bytes) -> str:
    if match := re.search(r"\.(\w{2,4})$", path):
        return match[1].lower()
    return next((suffix for magic, suffix in _MAGIC if content.startswith(magic)), "bin")


def _files(root: Path) -> dict[str, list[Path]]:
    """The files of each split, in order.

    Raises:
        DataError: the folder is no data set.
        UsageError: it holds several configurations.
    """
    if (listed := root / "dataset_dict.json").is_file():
        return {name: _saved(root / name) for name in _json(listed).get("splits", [])}
    if (root / "state.json").is_file():
        return {ALL: _saved(root)}
    found: dict[str, list[Path]] = {}
    for file in sorted(root.rglob("*.parquet")):
        if not any(part.startswith(".") for part in file.relative_to(root).parts):
            match = None if file.stem.isdigit() else _SHARD.fullmatch(file.stem)
            # The hub's own conversion has CONFIGURATION/SPLIT/0000.parquet.
            split = match["split"] if match else ALL if file.parent == root else file.parent.name
            found.setdefault(split, []).append(file)
    for split, files in found.items():
        if several := sorted({str(file.parent.relative_to(root)) for file in files})[1:]:
            raise UsageError(
                f"{root}: has the split {split!r} in several folders (also in {several[0]}), which are different "
                "configurations of the data set; give the folder of one of them as the root"
            )
    if not found:
        raise DataError(f"{root}: has neither dataset_dict.json, state.json nor *.parquet of a Hugging Face data set")
    return found


def _saved(folder: Path) -> list[Path]:
    names = [one.get("filename", "") for one in _json(folder / "state.json").get("_data_files", [])]
    files = [folder / Path(name).name for name in names]
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"{missing[0]} is missing, but {folder / 'state.json'} lists it; save or copy it anew")
    if not files:
        raise DataError(f"{folder / 'state.json'} lists no files")
    return files


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: is a {type(content).__name__}, not an object")
    return content


def _schema(file: Path) -> Any:
    pyarrow = need_pyarrow()
    from pyarrow import ipc, parquet

    try:
        if file.suffix == ".arrow":
            with pyarrow.memory_map(str(file)) as source:
                return ipc.open_stream(source).schema
        return parquet.read_schema(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error


def _arrow_rows(file: Path) -> Iterator[Record]:
    pyarrow = need_pyarrow()
    from pyarrow import ipc

    number = 0
    try:
        with pyarrow.memory_map(str(file)) as source:
            for batch in ipc.open_stream(source):
                for start in range(0, batch.num_rows, ROWS):
                    for row in batch.slice(start, ROWS).to_pylist():
                        number += 1
                        yield f"{file}:row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read after row {number} ({error})") from error


def _classes(file: Path) -> dict[str, list[str]]:
    """The names of the classes of the columns that hold their numbers."""
    metadata = (_schema(file).metadata or {}).get(b"huggingface")
    try:
        features = json.loads(metadata)["info"]["features"] if metadata else {}
    except (ValueError, KeyError, TypeError):
        return {}
    found = {}
    for name, feature in features.items():
        while isinstance(feature, list | dict) and (inner := _inner(feature)) is not None:
            feature = inner
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            found[name] = list(feature.get("names") or [])
    return found


def _inner(feature: Any) -> Any:
    """What a list of a feature holds."""
    if isinstance(feature, list):
        return feature[0] if feature else None
    return feature.get("feature")


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
